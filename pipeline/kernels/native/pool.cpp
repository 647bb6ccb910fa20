#include "pool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <system_error>
#include <thread>

namespace packet_voice {
namespace {

constexpr auto AWAKE = std::chrono::microseconds(200);
constexpr auto REFUSED = std::chrono::milliseconds(2);  // how long a helper stays away whose turn it is not
constexpr int MOST = 64;

using Call = void (*)(void*, int);

// The upper half of `next` numbers the products, the lower half is the next task of that product. A claim is
// a compare-and-swap of both, so a helper that comes too late cannot take a task of the next product with
// the arguments of the last one.
struct Pool {
  std::atomic<int> limit{1};
  std::atomic<int> started{0};
  std::atomic_flag taken = ATOMIC_FLAG_INIT;
  std::atomic<uint32_t> product{0};
  std::atomic<uint64_t> next{0};
  std::atomic<int> tasks{0};
  std::atomic<int> done{0};
  std::atomic<Call> call{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<uint64_t> helped{0};
  std::string turns;  // written before a helper starts
};

// Never destroyed: helpers may still sleep in it when the process ends.
Pool& pool() {
  static Pool& shared = *new Pool;
  return shared;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The right of helper `number` to be awake, which one process at a time has. Without the file everybody has it.
// The system takes it from a process that ends.
class Turn {
 public:
  Turn(const std::string& path, int number) {
    region_.l_type = F_WRLCK;
    region_.l_whence = SEEK_SET;
    region_.l_start = number;
    region_.l_len = 1;
    if (path.empty()) return;
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat about;
    if (file_ >= 0 && (::fstat(file_, &about) != 0 || about.st_uid != ::geteuid())) {
      ::close(file_);
      file_ = -1;
    }
  }

  bool take() {
    if (!taken_) taken_ = file_ < 0 || lock(F_WRLCK) || (errno != EAGAIN && errno != EACCES);
    return taken_;
  }

  void give() {
    if (taken_ && file_ >= 0) lock(F_UNLCK);
    taken_ = false;
  }

 private:
  bool lock(short type) {
    region_.l_type = type;
    return ::fcntl(file_, F_OFD_SETLK, &region_) == 0;
  }

  int file_ = -1;
  bool taken_ = false;
  struct flock region_ = {};
};

// Returns how many tasks this thread has run.
int take_part(Pool& p, uint32_t product) {
  int ran = 0;
  uint64_t claim = p.next.load(std::memory_order_acquire);
  while (uint32_t(claim >> 32) == product) {
    const int task = int(uint32_t(claim));
    const Call call = p.call.load(std::memory_order_acquire);
    void* context = p.context.load(std::memory_order_acquire);
    if (task >= p.tasks.load(std::memory_order_acquire)) break;
    if (!p.next.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel)) continue;
    call(context, task);
    p.done.fetch_add(1, std::memory_order_acq_rel);
    ran++;
    claim = p.next.load(std::memory_order_acquire);
  }
  return ran;
}

void help(Pool& p, int number) {
  using Clock = std::chrono::steady_clock;
  Turn turn(p.turns, number);
  uint32_t seen = p.product.load(std::memory_order_acquire);
  Clock::time_point until = Clock::now() + AWAKE;
  while (true) {
    const uint32_t current = p.product.load(std::memory_order_acquire);
    if (current == seen) {
      if (Clock::now() <= until) {
        for (int i = 0; i < 16; i++) pause();
      } else {
        turn.give();
        p.product.wait(seen, std::memory_order_acquire);
      }
      continue;
    }
    seen = current;
    until = Clock::now() + AWAKE;
    if (number >= p.limit.load(std::memory_order_relaxed)) continue;
    if (turn.take()) {
      p.helped.fetch_add(take_part(p, current), std::memory_order_relaxed);
      until = Clock::now() + AWAKE;
    } else {
      std::this_thread::sleep_for(REFUSED);
      seen = p.product.load(std::memory_order_acquire);
      until = Clock::time_point();
    }
  }
}

}  // namespace

int set_threads(int count) {
  Pool& p = pool();
  count = std::clamp(count, 1, MOST);
  int number = p.started.load();
  try {
    for (; number + 1 < count; number++) std::thread(help, std::ref(p), number + 1).detach();
  } catch (const std::system_error&) {
    count = number + 1;  // the system allows no more
  }
  p.started.store(number);
  p.limit.store(count);
  return count;
}

void set_turns(const std::string& path) {
  if (pool().started.load() == 0) pool().turns = path;
}

uint64_t helped() { return pool().helped.load(std::memory_order_relaxed); }

int threads() { return pool().limit.load(std::memory_order_relaxed); }

void detail::run(int tasks, Call call, void* context) {
  Pool& p = pool();
  if (p.taken.test_and_set(std::memory_order_acquire)) {
    for (int task = 0; task < tasks; task++) call(context, task);
    return;
  }
  const uint32_t product = p.product.load(std::memory_order_relaxed) + 1;
  p.next.store(uint64_t(product) << 32 | uint32_t(tasks), std::memory_order_release);  // nothing to claim yet
  p.call.store(call, std::memory_order_release);
  p.context.store(context, std::memory_order_release);
  p.done.store(0, std::memory_order_release);
  p.tasks.store(tasks, std::memory_order_release);
  p.next.store(uint64_t(product) << 32, std::memory_order_release);
  p.product.store(product, std::memory_order_release);
  p.product.notify_all();
  take_part(p, product);
  for (int i = 0; p.done.load(std::memory_order_acquire) < tasks; i++) {
    i < 4096 ? pause() : std::this_thread::yield();
  }
  p.taken.clear(std::memory_order_release);
}

}  // namespace packet_voice
