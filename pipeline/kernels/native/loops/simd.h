// Vectors of PV_WIDTH floats, written with the compiler's vector extensions (GCC and Clang).
//
// They compile to AVX2, AVX-512 or NEON from one source. To be included by `compute.cpp` only.

#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace packet_voice {
namespace {

constexpr int W = PV_WIDTH;

typedef float Floats __attribute__((vector_size(W * 4)));
typedef int32_t Ints __attribute__((vector_size(W * 4)));
typedef uint32_t Words __attribute__((vector_size(W * 4)));
typedef uint16_t Halves __attribute__((vector_size(W * 2)));
typedef float LooseFloats __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t LooseWords __attribute__((vector_size(W * 4), aligned(1), may_alias));
typedef uint16_t LooseHalves __attribute__((vector_size(W * 2), aligned(1), may_alias));
typedef uint8_t LooseBytes __attribute__((vector_size(W), aligned(1), may_alias));
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint8_t LooseBytes16 __attribute__((vector_size(16), aligned(1), may_alias));

#define PV_INLINE static inline __attribute__((always_inline))

PV_INLINE Floats load(const float* p) { return *reinterpret_cast<const LooseFloats*>(p); }
PV_INLINE void store(float* p, Floats x) { *reinterpret_cast<LooseFloats*>(p) = x; }
PV_INLINE Words load_words(const void* p) { return *static_cast<const LooseWords*>(p); }
// The first `count` numbers, fewer than W, and zeros; nothing behind them is read.
PV_INLINE Floats first_floats(const float* p, int count) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p));
#else
  float all[W] = {};
  for (int i = 0; i < count; i++) all[i] = p[i];
  return load(all);
#endif
}

PV_INLINE Halves first_halves(const void* p, int count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return reinterpret_cast<Halves>(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p));
#else
  uint16_t all[W] = {};
  for (int i = 0; i < count; i++) __builtin_memcpy(all + i, static_cast<const char*>(p) + 2 * i, 2);
  return *reinterpret_cast<const LooseHalves*>(all);
#endif
}

PV_INLINE Floats broadcast(float x) { return Floats{} + x; }
PV_INLINE Floats as_floats(Words x) { return reinterpret_cast<Floats>(x); }
PV_INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
PV_INLINE Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
PV_INLINE Floats to_floats(Words x) { return __builtin_convertvector(reinterpret_cast<Ints>(x), Floats); }

// From 16 or 8 bits to 32, and from parts to a whole. GCC 12 does with `__builtin_convertvector`, and through
// memory, number by number what these functions do at once.
PV_INLINE Words widened(Halves x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x)));
#else
  return __builtin_convertvector(x, Words);
#endif
}

PV_INLINE Words widened_bytes(const void* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(*static_cast<const LooseBytes*>(p), Words);
#endif
}

PV_INLINE Words joined(const Bytes16* parts) {
#if defined(__AVX512F__)
  const __m256i low = _mm256_set_m128i(reinterpret_cast<__m128i>(parts[1]), reinterpret_cast<__m128i>(parts[0]));
  const __m256i high = _mm256_set_m128i(reinterpret_cast<__m128i>(parts[3]), reinterpret_cast<__m128i>(parts[2]));
  return reinterpret_cast<Words>(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(
      _mm256_set_m128i(reinterpret_cast<__m128i>(parts[1]), reinterpret_cast<__m128i>(parts[0])));
#else
  Words words;
  __builtin_memcpy(&words, parts, sizeof words);
  return words;
#endif
}

PV_INLINE Floats from_bfloat16(Halves x) { return as_floats(widened(x) << 16); }

PV_INLINE float scalar_from_bfloat16(uint16_t bits) {
  uint32_t word = uint32_t(bits) << 16;
  float x;
  __builtin_memcpy(&x, &word, 4);
  return x;
}

PV_INLINE float scalar_from_float16(uint16_t bits) {
  // Exact: the exponent is moved up by a product with a power of two, which also handles subnormals.
  uint32_t word = (uint32_t(bits & 0x7fff) << 13);
  float x;
  __builtin_memcpy(&x, &word, 4);
  x *= 0x1p112f;
  __builtin_memcpy(&word, &x, 4);
  if ((bits & 0x7c00) == 0x7c00) word = 0x7f800000u | (uint32_t(bits & 0x3ff) << 13);
  word |= uint32_t(bits & 0x8000) << 16;
  __builtin_memcpy(&x, &word, 4);
  return x;
}

PV_INLINE Floats from_float16(Halves x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(x)));
#elif defined(__F16C__)
  return reinterpret_cast<Floats>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(x)));
#else
  const Words bits = widened(x);
  const Floats size = as_floats((bits & 0x7fff) << 13) * 0x1p112f;
  const Words infinite = reinterpret_cast<Words>((bits & 0x7c00) == 0x7c00);
  const Words special = 0x7f800000u | ((bits & 0x3ff) << 13);
  const Words value = (reinterpret_cast<Words>(size) & ~infinite) | (special & infinite);
  return as_floats(value | ((bits & 0x8000) << 16));
#endif
}

typedef float Floats8 __attribute__((vector_size(32)));

PV_INLINE Floats8 halved(Floats x) {
#if PV_WIDTH == 16
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return x;
#endif
}

PV_INLINE float sum(Floats x) {
  const Floats8 x8 = halved(x);
  typedef float F4 __attribute__((vector_size(16)));
  const F4 x4 = __builtin_shufflevector(x8, x8, 0, 1, 2, 3) + __builtin_shufflevector(x8, x8, 4, 5, 6, 7);
  return (x4[0] + x4[2]) + (x4[1] + x4[3]);
}

// The sums of eight vectors, each in the order of `sum`.
PV_INLINE void sum_eight(const Floats* v, float* out) {
  Floats8 four[4];
  for (int i = 0; i < 4; i++) {
    const Floats8 a = halved(v[i]), b = halved(v[i + 4]);
    four[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
        __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  Floats8 two[2];
  for (int i = 0; i < 2; i++) {
    const Floats8 a = four[2 * i], b = four[2 * i + 1];
    two[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
        __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  const Floats8 all = __builtin_shufflevector(two[0], two[1], 0, 2, 8, 10, 4, 6, 12, 14) +
      __builtin_shufflevector(two[0], two[1], 1, 3, 9, 11, 5, 7, 13, 15);
  __builtin_memcpy(out, &all, sizeof all);
}

template <int C>
PV_INLINE void sums(const Floats* v, float* out) {
  int i = 0;
  for (; i + 8 <= C; i += 8) sum_eight(v + i, out + i);
  for (; i < C; i++) out[i] = sum(v[i]);
}

// e^x to about 1 ulp, for finite x; below -87 it is 1e-38 instead of smaller. After Cephes' expf.
PV_INLINE Floats exponential(Floats x) {
  x = minimum(maximum(x, broadcast(-87.0f)), broadcast(88.0f));
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const Floats n = shifted - 12582912.0f;
  Floats r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats y = p * (r * r) + r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return y * reinterpret_cast<Floats>(exponent);
}

}  // namespace
}  // namespace packet_voice
