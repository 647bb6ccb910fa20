// Products with packed weights by 8-bit integer products (AVX-512 VNNI), as exact as those with floats.
//
// The inputs of a group become integers of 22 to 24 bits, relative to the largest of them, and these are taken
// apart in three digits of 8 bits with a sign. Sums of integers are exact, so all that is rounded is each input,
// once, as far down as a float32 of the largest one is. Three products of bytes then stand for four times as many
// of floats, and no weight is widened.

#pragma once

#include <immintrin.h>

#include "packed.h"

namespace packet_voice {
namespace {

// A chunk is what one vector of each row holds: 64 bytes, or the 48 of 64 numbers of 6 bits. A lane is 4 numbers
// of a chunk, or, with 4 bits, 8 numbers: one word. Digits of inputs have the order of the bytes that they meet:
// with 4 bits, those of even places first, which meet the lower halves of all bytes.
template <int B>
struct Chunk {
  static constexpr int parts = B == 4 ? 2 : 1;
  static constexpr int values = 64 * parts;
  static constexpr int bytes = values * B / 8;
  // Bits of the two lower digits. The sum of a lane's products, with all three digits, has to fit into 32 bits.
  static constexpr int shift = B == 8 ? 7 : 8;
  static constexpr float most = 127.0f * (1 << 2 * shift);
};

template <int B>
PV_INLINE int chunks_of(const MatrixView& m) { return (m.in + Chunk<B>::values - 1) / Chunk<B>::values; }

// Floats of a prepared row: digits, then the scale and the sum of each group.
template <int B>
PV_INLINE size_t digits_floats(const MatrixView& m) { return size_t(chunks_of<B>(m)) * Chunk<B>::parts * 3 * W; }

template <int B>
PV_INLINE size_t prepared_row(const MatrixView& m) { return digits_floats<B>(m) + 2 * size_t(groups_padded(m)); }

template <int B>
PV_INLINE void store_digits(__m512i t, int8_t* at) {
  constexpr int shift = Chunk<B>::shift;
  for (int digit = 2; digit >= 0; digit--) {
    const __m512i low = digit == 0 ? t : _mm512_srai_epi32(_mm512_slli_epi32(t, 32 - shift), 32 - shift);
    t = _mm512_srai_epi32(_mm512_sub_epi32(t, low), shift);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + digit * 64), _mm512_cvtepi32_epi8(low));
  }
}

template <int B>
void prepare_packed(const MatrixView& m, const Rows& rows, float* prepared) {
  using C = Chunk<B>;
  const int groups = m.in / m.group, padded = groups_padded(m);
  for (int n = 0; n < rows.count; n++) {
    const float* x = rows.x + size_t(n) * rows.x_stride;
    float* out = prepared + n * prepared_row<B>(m);
    float* scales = out + digits_floats<B>(m);
    float* sums = scales + padded;
    int8_t* digits = reinterpret_cast<int8_t*>(out);
    if (m.in % C::values != 0) __builtin_memset(digits + size_t(m.in / C::values) * C::parts * 192, 0, C::parts * 192);
    for (int g = groups; g < padded; g++) scales[g] = sums[g] = 0;
    for (int g = 0; g < groups; g++) {
      const float* from = x + g * m.group;
      Floats total = {}, largest = {};
      for (int i = 0; i < m.group; i += W) {
        const Floats v = load(from + i);
        total += v;
        largest = maximum(largest, maximum(v, -v));
      }
      sums[g] = sum(total);
      float most = _mm512_reduce_max_ps(reinterpret_cast<__m512>(largest));
      if (!(most > 1e-30f)) most = 1e-30f;
      scales[g] = most / C::most;
      const Floats inverse = broadcast(C::most / most);
      for (int i = 0; i < m.group; i += 32) {
        const int at = g * m.group + i;
        const __m512i a = _mm512_cvtps_epi32(reinterpret_cast<__m512>(load(from + i) * inverse));
        const __m512i b = _mm512_cvtps_epi32(reinterpret_cast<__m512>(load(from + i + W) * inverse));
        int8_t* place = digits + size_t(at / C::values) * C::parts * 192 + at % C::values / C::parts;
        if constexpr (B == 4) {
          const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
          const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
          store_digits<B>(_mm512_permutex2var_epi32(a, even, b), place);
          store_digits<B>(_mm512_permutex2var_epi32(a, odd, b), place + 192);
        } else {
          store_digits<B>(a, place);
          store_digits<B>(b, place + W);
        }
      }
    }
  }
}

// The numbers of a chunk as bytes, of which `bytes` are in the row.
template <int B>
PV_INLINE void unpack(const char* p, uint64_t bytes, __m512i* q) {
  if constexpr (B == 6) {
    const __m512i packed = _mm512_maskz_loadu_epi8(bytes, p);
    // Six bytes for each 64-bit word, then eight fields of it.
    const __m512i places = _mm512_setr_epi64(
        0x0000050403020100, 0x00000b0a09080706, 0x000011100f0e0d0c, 0x0000171615141312, 0x00001d1c1b1a1918,
        0x0000232221201f1e, 0x0000292827262524, 0x00002f2e2d2c2b2a);
    const __m512i words = _mm512_permutexvar_epi8(places, packed);
    const __m512i fields = _mm512_set1_epi64(0x2a241e18120c0600);
    q[0] = _mm512_and_si512(_mm512_multishift_epi64_epi8(fields, words), _mm512_set1_epi8(0x3f));
  } else {
    const __m512i packed = bytes == ~uint64_t(0) ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(bytes, p);
    if constexpr (B == 8) {
      q[0] = packed;
    } else {
      const __m512i mask = _mm512_set1_epi8(0x0f);
      q[0] = _mm512_and_si512(packed, mask);
      q[1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
    }
  }
}

// Each lane's sum of products, with all three digits.
template <int B>
PV_INLINE __m512i multiplied(const __m512i* q, const __m512i* x) {
  using C = Chunk<B>;
  __m512i sum = _mm512_setzero_si512();
  for (int digit = 0; digit < 3; digit++) {
    if (digit > 0) sum = _mm512_slli_epi32(sum, C::shift);
    for (int part = 0; part < C::parts; part++) sum = _mm512_dpbusd_epi32(sum, q[part], x[part * 3 + digit]);
  }
  return sum;
}

// The numbers of a row's groups from `at` on, as many as `mask` has ones, and zeros.
PV_INLINE Floats sixteen(const void* p, Storage storage, size_t at, __mmask16 mask) {
  const char* from = static_cast<const char*>(p) + at * (storage == Storage::F32 ? 4 : 2);
  if (storage == Storage::F32) return reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(mask, from));
  const Halves halves = reinterpret_cast<Halves>(_mm256_maskz_loadu_epi16(mask, from));
  return storage == Storage::BF16 ? from_bfloat16(halves) : from_float16(halves);
}

// What the blocks of a product have in common.
template <int B>
struct Blocks {
  const MatrixView& m;
  const Rows& rows;
  const float* prepared;
  size_t tile;
  int groups, padded, shift;
  int chunks, whole;  // of a row, and those of them that the row fills
  int segment;  // chunks of sixteen groups
  size_t stride;
  size_t scale_bytes, scale_tile;  // of one scale, and of those that belong to a tile
  __m512i first_groups;  // the group of each lane of the first chunk

  PV_INLINE Blocks of(const MatrixView& m, const Rows& rows, const float* prepared, size_t tile) {
    using C = Chunk<B>;
    const int shift = __builtin_ctz(m.group);
    const size_t scale_bytes = m.scale_storage == Storage::F32 ? 4 : 2;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return {
        m, rows, prepared, tile, m.in / m.group, groups_padded(m), shift, chunks_of<B>(m), m.in / C::values,
        (W << shift) / C::values, prepared_row<B>(m), scale_bytes,
        tile * 8 / (m.group * B) * scale_bytes,
        _mm512_srl_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(C::values / W)), _mm_cvtsi32_si128(shift)),
    };
  }
};

template <int B, int R, int N>
PV_INLINE void packed_block(const Blocks<B>& all, int output, int row) {
  using C = Chunk<B>;
  const MatrixView& m = all.m;
  const char* w = static_cast<const char*>(m.data) + size_t(output) * m.row_bytes;
  const float* x[N];
  for (int n = 0; n < N; n++) x[n] = all.prepared + (row + n) * all.stride;
  Ahead ahead = Ahead::of(w, R * m.row_bytes, all.tile);
  // Scales and biases are fetched as far ahead as the weights they belong to.
  const size_t scale_row = all.groups * all.scale_bytes, scale_block = R * scale_row;
  const size_t scales_ahead = output * scale_row + (scale_block > all.scale_tile ? scale_block : all.scale_tile);
  Floats acc[R][N] = {};
  for (int g = 0; g < all.padded; g += W) {
    const __mmask16 mask = all.groups - g >= W ? __mmask16(-1) : __mmask16((1u << (all.groups - g)) - 1);
    for (size_t i = 0; i < R * W * all.scale_bytes; i += 64) {
      __builtin_prefetch(static_cast<const char*>(m.scales) + scales_ahead + g * R * all.scale_bytes + i);
      __builtin_prefetch(static_cast<const char*>(m.biases) + scales_ahead + g * R * all.scale_bytes + i);
    }
    Floats scales[R][N];
    for (int r = 0; r < R; r++) {
      const size_t at = size_t(output + r) * all.groups + g;
      const Floats s = sixteen(m.scales, m.scale_storage, at, mask), b = sixteen(m.biases, m.scale_storage, at, mask);
      for (int n = 0; n < N; n++) {
        const float* of_groups = x[n] + digits_floats<B>(m) + g;
        scales[r][n] = s * load(of_groups);
        acc[r][n] += b * load(of_groups + all.padded);
      }
    }
    const int begin = g / W * all.segment;
    auto step = [&](int c, uint64_t bytes) __attribute__((always_inline)) {
      const __m512i index = _mm512_add_epi32(all.first_groups, _mm512_set1_epi32((c - begin) * C::values >> all.shift));
      __m512i q[R][C::parts];
      for (int r = 0; r < R; r++) {
        Ahead::fetch(ahead, C::bytes);
        unpack<B>(w + r * m.row_bytes + size_t(c) * C::bytes, bytes, q[r]);
      }
      for (int n = 0; n < N; n++) {
        __m512i digits[3 * C::parts];
        const char* from = reinterpret_cast<const char*>(x[n]) + size_t(c) * C::parts * 192;
        for (int i = 0; i < 3 * C::parts; i++) digits[i] = _mm512_loadu_si512(from + 64 * i);
        for (int r = 0; r < R; r++) {
          const __m512 products = _mm512_cvtepi32_ps(multiplied<B>(q[r], digits));
          const __m512 scale = _mm512_permutexvar_ps(index, reinterpret_cast<__m512>(scales[r][n]));
          acc[r][n] = reinterpret_cast<Floats>(_mm512_fmadd_ps(products, scale, reinterpret_cast<__m512>(acc[r][n])));
        }
      }
    };
    const int end = begin + all.segment;
    int c = begin;
    for (; c < end && c < all.whole; c++) step(c, B == 6 ? (uint64_t(1) << C::bytes) - 1 : ~uint64_t(0));
    if (c < end && c < all.chunks) step(c, (uint64_t(1) << (m.row_bytes - size_t(c) * C::bytes)) - 1);
  }
  write_sums<R, N>(acc, all.rows, output, row);
}

template <int B, int R, int N>
PV_INLINE void packed_blocks(const Blocks<B>& all, int& output, int end, int row) {
  for (; output + R <= end; output += R) packed_block<B, R, N>(all, output, row);
}

template <int B, int N>
void packed_rows(const Blocks<B>& all, int begin, int end, int row) {
  int output = begin;
  packed_blocks<B, N <= 2 ? 4 : 2, N>(all, output, end, row);
  packed_blocks<B, 1, N>(all, output, end, row);
}

template <int B>
void packed(const MatrixView& m, const Rows& rows, const float* prepared, int begin, int end) {
  in_tiles<FAR_BYTES>(m, rows.count, begin, end, [&](int first, int last, int row, int n, size_t tile) {
    const Blocks<B> all = Blocks<B>::of(m, rows, prepared, tile);
    if (n == 4) packed_rows<B, 4>(all, first, last, row);
    if (n == 3) packed_rows<B, 3>(all, first, last, row);
    if (n == 2) packed_rows<B, 2>(all, first, last, row);
    if (n == 1) packed_rows<B, 1>(all, first, last, row);
  });
}

}  // namespace
}  // namespace packet_voice
