// Products with packed weights that are widened to floats in registers.
//
// A vector holds W pieces of `per` adjacent numbers: a 32-bit word of eight, or, with 6 bits, 24 bits of four.
// Number j of all pieces is taken out at once, so the input is arranged to match (`prepare`): `per` vectors per
// block, number j of every piece in the j-th. With 8 bits, a piece is one byte, and the order stays. The sum of
// each group of the input comes after that.

#pragma once

#include "packed.h"

namespace packet_voice {
namespace {

constexpr int GROUPS_MAX = 1024;  // groups of a row that fit the scratch below: in ≤ 32768

template <int B>
struct Packing {
  static constexpr int per = B == 4 ? 8 : B == 6 ? 4 : 1;
  static constexpr int piece_bytes = B == 4 ? 4 : B == 6 ? 3 : 1;
  static constexpr int values = W * per;  // numbers of one vector
  static constexpr int block_bytes = W * piece_bytes;
};

template <int B>
PV_INLINE Words load_pieces(const char* p) {
  if constexpr (B == 4) {
    return load_words(p);
  } else if constexpr (B == 8) {
    return widened_bytes(p);
  } else {
    const Bytes16 zero = {};
#define PV_SPREAD(v, o) \
  __builtin_shufflevector(v, zero, o, o + 1, o + 2, 16, o + 3, o + 4, o + 5, 16, o + 6, o + 7, o + 8, 16, o + 9, o + 10, o + 11, 16)
    // The last 16 bytes start 4 bytes early, so that nothing beyond the block is read.
#if PV_WIDTH == 16
    const Bytes16 a = *reinterpret_cast<const LooseBytes16*>(p);
    const Bytes16 b = *reinterpret_cast<const LooseBytes16*>(p + 12);
    const Bytes16 c = *reinterpret_cast<const LooseBytes16*>(p + 24);
    const Bytes16 d = *reinterpret_cast<const LooseBytes16*>(p + 32);
    Bytes16 parts[4] = {PV_SPREAD(a, 0), PV_SPREAD(b, 0), PV_SPREAD(c, 0), PV_SPREAD(d, 4)};
#else
    const Bytes16 a = *reinterpret_cast<const LooseBytes16*>(p);
    const Bytes16 b = *reinterpret_cast<const LooseBytes16*>(p + 8);
    Bytes16 parts[2] = {PV_SPREAD(a, 0), PV_SPREAD(b, 4)};
#endif
#undef PV_SPREAD
    return joined(parts);
  }
}

// Number j of each piece.
template <int B>
PV_INLINE Floats number_at(Words pieces, int j) {
  const Words shifted = pieces >> (B * j);
#if defined(__AVX512F__)
  if constexpr (B == 4) {  // a permutation of a table looks at the four lowest bits only
    const Floats table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return reinterpret_cast<Floats>(
        _mm512_permutexvar_ps(reinterpret_cast<__m512i>(shifted), reinterpret_cast<__m512>(table)));
  }
#endif
  return to_floats(B == 8 ? shifted : shifted & ((1u << B) - 1));
}

template <class T>
PV_INLINE void widen_padded(const char* p, int count, float* out) {
  int i = 0;
  for (; i + W <= count; i += W) store(out + i, T::vector(p + i * T::bytes));
  if (i < count) store(out + i, T::first(p + i * T::bytes, count - i));
}

// The scales of a row, and zeros up to a whole number of vectors.
PV_INLINE void scales_of(const void* p, Storage storage, size_t first, int count, float* out) {
  if (storage == Storage::F32) {
    widen_padded<F32>(static_cast<const char*>(p) + first * 4, count, out);
  } else if (storage == Storage::BF16) {
    widen_padded<BF16>(static_cast<const char*>(p) + first * 2, count, out);
  } else {
    widen_padded<F16>(static_cast<const char*>(p) + first * 2, count, out);
  }
}

// The scales of the `M` groups that one vector of pieces covers. A whole vector is read, whose end is not used:
// from a narrower one GCC makes a wide one through memory, which costs more than all products of the groups.
template <int M>
PV_INLINE Floats spread(const float* s) {
  if constexpr (M == 1) {
    return broadcast(*s);
  } else {
    const Floats v = load(s);
#if PV_WIDTH == 16
    if constexpr (M == 2) return __builtin_shufflevector(v, v, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return __builtin_shufflevector(v, v, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
#else
    if constexpr (M == 2) return __builtin_shufflevector(v, v, 0, 0, 0, 0, 1, 1, 1, 1);
    return __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3);
#endif
  }
}

template <int B>
PV_INLINE int blocks_of(const MatrixView& m) { return (m.in + Packing<B>::values - 1) / Packing<B>::values; }

template <int B>
PV_INLINE size_t prepared_row(const MatrixView& m) {
  return size_t(blocks_of<B>(m)) * Packing<B>::values + groups_padded(m);
}

template <int B>
void prepare_packed(const MatrixView& m, const Rows& rows, float* prepared) {
  using P = Packing<B>;
  for (int n = 0; n < rows.count; n++) {
    const float* x = rows.x + size_t(n) * rows.x_stride;
    float* out = prepared + n * prepared_row<B>(m);
    const int blocks = blocks_of<B>(m);
    for (int b = 0; b < blocks; b++) {
      for (int j = 0; j < P::per; j++) {
        for (int lane = 0; lane < W; lane++) {
          const int k = b * P::values + lane * P::per + j;
          out[(b * P::per + j) * W + lane] = k < m.in ? x[k] : 0.0f;
        }
      }
    }
    float* sums = out + size_t(blocks) * P::values;
    const int groups = m.in / m.group;
    for (int g = 0; g < groups_padded(m); g++) {
      float total = 0;
      if (g < groups) {
        Floats partial = {};
        for (int i = 0; i + W <= m.group; i += W) partial += load(x + g * m.group + i);
        total = sum(partial);
      }
      sums[g] = total;
    }
  }
}

template <int B, int M, int R, int N>
PV_INLINE void packed_block(const MatrixView& m, const Rows& rows, const float* prepared, int output, int row, size_t tile) {
  using P = Packing<B>;
  const int blocks = blocks_of<B>(m), groups = m.in / m.group, padded = groups_padded(m);
  const size_t stride = prepared_row<B>(m);
  const float* x[N];
  for (int n = 0; n < N; n++) x[n] = prepared + (row + n) * stride;
  alignas(64) float scales[R][GROUPS_MAX + W], biases[R][GROUPS_MAX + W];
  const char* w[R];
  Floats acc[R][N] = {};
  for (int r = 0; r < R; r++) {
    w[r] = static_cast<const char*>(m.data) + size_t(output + r) * m.row_bytes;
    scales_of(m.scales, m.scale_storage, size_t(output + r) * groups, groups, scales[r]);
    scales_of(m.biases, m.scale_storage, size_t(output + r) * groups, groups, biases[r]);
    for (int g = 0; g < padded; g += W) {
      const Floats b = load(biases[r] + g);
      for (int n = 0; n < N; n++) acc[r][n] += b * load(x[n] + size_t(blocks) * P::values + g);
    }
  }
  // With M = 1 a group is `vectors` vectors long, and is scaled once.
  const int vectors = M > 1 ? 1 : m.group / P::values;
  Ahead ahead = Ahead::of(w[0], R * m.row_bytes, tile);
  auto step = [&](int b, const char* const* pieces, int count) __attribute__((always_inline)) {
    Floats part[R][N] = {};
    for (int at = 0; at < R * count * P::block_bytes; at += 64) Ahead::fetch(ahead, 64);
    for (int i = 0; i < count; i++) {
      Words q[R];
      for (int r = 0; r < R; r++) q[r] = load_pieces<B>(pieces[r] + i * P::block_bytes);
      for (int j = 0; j < P::per; j++) {
        Floats xs[N];
        for (int n = 0; n < N; n++) xs[n] = load(x[n] + (size_t(b + i) * P::per + j) * W);
        for (int r = 0; r < R; r++) {
          const Floats v = number_at<B>(q[r], j);
          for (int n = 0; n < N; n++) part[r][n] += v * xs[n];
        }
      }
    }
    for (int r = 0; r < R; r++) {
      const Floats s = spread<M>(scales[r] + (M > 1 ? b * M : b / vectors));
      for (int n = 0; n < N; n++) acc[r][n] += s * part[r][n];
    }
  };
  const int whole = m.in / P::values / vectors * vectors;
  for (int b = 0; b < whole; b += vectors) {
    const char* pieces[R];
    for (int r = 0; r < R; r++) pieces[r] = w[r] + size_t(b) * P::block_bytes;
    step(b, pieces, vectors);
  }
  if (whole < blocks) {  // the rest of the row, followed by zeros; less than a vector, because groups are whole
    char tail[R][P::block_bytes] = {};
    const char* pieces[R];
    for (int r = 0; r < R; r++) {
      __builtin_memcpy(tail[r], w[r] + size_t(whole) * P::block_bytes, m.row_bytes - size_t(whole) * P::block_bytes);
      pieces[r] = tail[r];
    }
    step(whole, pieces, 1);
  }
  write_sums<R, N>(acc, rows, output, row);
}

template <int B, int M, int N>
void packed_rows(const MatrixView& m, const Rows& rows, const float* prepared, int begin, int end, int row, size_t tile) {
  constexpr int R = PV_REGISTERS == 32 && B == 4 ? (N == 1 ? 8 : N == 2 ? 4 : 2) : (N == 1 ? 4 : 2);
  int output = begin;
  for (; output + R <= end; output += R) packed_block<B, M, R, N>(m, rows, prepared, output, row, tile);
  for (; output < end; output++) packed_block<B, M, 1, N>(m, rows, prepared, output, row, tile);
}

template <int B, int M>
void packed_groups(const MatrixView& m, const Rows& rows, const float* prepared, int begin, int end) {
  in_tiles<NEAR_BYTES>(m, rows.count, begin, end, [&](int first, int last, int row, int n, size_t tile) {
    if (n == 4) packed_rows<B, M, 4>(m, rows, prepared, first, last, row, tile);
    if (n == 3) packed_rows<B, M, 3>(m, rows, prepared, first, last, row, tile);
    if (n == 2) packed_rows<B, M, 2>(m, rows, prepared, first, last, row, tile);
    if (n == 1) packed_rows<B, M, 1>(m, rows, prepared, first, last, row, tile);
  });
}

template <int B>
void packed(const MatrixView& m, const Rows& rows, const float* prepared, int begin, int end) {
  const int covered = Packing<B>::values / m.group;  // groups in one vector
  if (covered >= 4) {
    packed_groups<B, 4>(m, rows, prepared, begin, end);
  } else if (covered == 2) {
    packed_groups<B, 2>(m, rows, prepared, begin, end);
  } else {
    packed_groups<B, 1>(m, rows, prepared, begin, end);
  }
}

}  // namespace
}  // namespace packet_voice
