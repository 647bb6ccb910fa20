#include "dispatch.h"

namespace packet_voice {

#if defined(__x86_64__)
extern const Compute compute_avx2;
extern const Compute compute_avx512;
extern const Compute compute_avx512vnni;
#elif defined(__aarch64__)
extern const Compute compute_neon;
#endif

namespace {

const Compute* chosen = nullptr;

bool executes(const std::string& name) {
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (name == "avx2") return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (name == "avx512") return avx512;
  if (name == "avx512vnni") return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
#elif defined(__aarch64__)
  if (name == "neon") return true;
#endif
  (void)name;
  return false;
}

const Compute* find(const std::string& name) {
#if defined(__x86_64__)
  if (name == "avx2") return &compute_avx2;
  if (name == "avx512") return &compute_avx512;
  if (name == "avx512vnni") return &compute_avx512vnni;
#elif defined(__aarch64__)
  if (name == "neon") return &compute_neon;
#endif
  (void)name;
  return nullptr;
}

}  // namespace

std::string supported() {
  std::string names;
  for (const char* name : {"avx512vnni", "avx512", "avx2", "neon"}) {
    if (executes(name)) names += names.empty() ? name : std::string(",") + name;
  }
  return names;
}

bool choose(const std::string& name) {
  if (!executes(name)) return false;
  chosen = find(name);
  return true;
}

const Compute* compute() { return chosen; }

}  // namespace packet_voice
