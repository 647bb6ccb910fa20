/** A minimal test runner for the page's modules: `test(name, check)` registers, `runTests()` runs. */

const registered = [];

export function test(name, check) {
  registered.push({ name, check });
}

/** [{name, problem}]; `problem` is null if the test passed. */
export async function runTests() {
  const results = [];
  for (const { name, check } of registered) {
    let problem = null;
    try {
      await check();
    } catch (error) {
      problem = `${error}\n${error.stack}`;
    }
    results.push({ name, problem });
  }
  return results;
}

export function equal(actual, expected, what = "") {
  if (Object.is(actual, expected)) return;
  const [left, right] = [actual, expected].map(plain);
  if (left !== right) throw new Error(`${what} is ${left}, should be ${right}`);
}

export function near(actual, expected, tolerance, what = "") {
  if (!(Math.abs(actual - expected) <= tolerance)) {
    throw new Error(`${what} is ${actual}, should be ${expected} ± ${tolerance}`);
  }
}

export function ok(condition, what) {
  if (!condition) throw new Error(what);
}

/** The error that `action` throws. */
export function errorOf(action) {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

/** A generator of random numbers from 0 to 1 (mulberry32). */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const plain = (value) =>
  JSON.stringify(value, (_, part) => (ArrayBuffer.isView(part) ? Array.from(part) : part));
