/** The languages of Whisper, and their names. */

// That some browsers have no name for.
const NAMES = Object.freeze({ ba: "Bashkir", bo: "Tibetan", haw: "Hawaiian", jw: "Javanese", ln: "Lingala", nn: "Norwegian Nynorsk" });
const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" });

/** The English name of a language; its code if nobody knows one. */
export const languageName = (code) => names.of(code) ?? NAMES[code] ?? code;

/** Those that it was trained on, by its codes. Source: openai/whisper, tokenizer. */
export const LANGUAGES = Object.freeze(
  (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la " +
    "mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be " +
    "tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su"
  ).split(" "),
);
