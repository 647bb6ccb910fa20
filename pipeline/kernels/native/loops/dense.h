// Products with weights of float32, bfloat16 or float16.

#pragma once

#include "../compute.h"
#include "simd.h"

namespace packet_voice {
namespace {

struct F32 {
  static constexpr int bytes = 4;
  PV_INLINE Floats vector(const char* p) { return load(reinterpret_cast<const float*>(p)); }
  PV_INLINE Floats first(const char* p, int count) { return first_floats(reinterpret_cast<const float*>(p), count); }
  PV_INLINE float scalar(const char* p) {
    float x;
    __builtin_memcpy(&x, p, 4);
    return x;
  }
};

struct BF16 {
  static constexpr int bytes = 2;
  PV_INLINE Floats vector(const char* p) { return from_bfloat16(*reinterpret_cast<const LooseHalves*>(p)); }
  PV_INLINE Floats first(const char* p, int count) { return from_bfloat16(first_halves(p, count)); }
  PV_INLINE float scalar(const char* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return scalar_from_bfloat16(x);
  }
};

struct F16 {
  static constexpr int bytes = 2;
  PV_INLINE Floats vector(const char* p) { return from_float16(*reinterpret_cast<const LooseHalves*>(p)); }
  PV_INLINE Floats first(const char* p, int count) { return from_float16(first_halves(p, count)); }
  PV_INLINE float scalar(const char* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return scalar_from_float16(x);
  }
};

// Weights are fetched into the second cache before they are read, in the order in which they lie in memory, so that
// rows of any length make one stream: while a block of rows is multiplied, what follows it by `ahead` bytes.
struct Ahead {
  const char* next;

  PV_INLINE Ahead of(const void* block, size_t block_bytes, size_t least) {
    return {static_cast<const char*>(block) + (block_bytes > least ? block_bytes : least)};
  }
  PV_INLINE void fetch(Ahead& ahead, size_t bytes) {
    __builtin_prefetch(ahead.next, 0, 2);
    ahead.next += bytes;
  }
};

template <class T, int R, int N>
PV_INLINE void dense_block(const MatrixView& m, const Rows& rows, int output, int row, size_t tile) {
  const char* w[R];
  const float* x[N];
  for (int r = 0; r < R; r++) w[r] = static_cast<const char*>(m.data) + size_t(output + r) * m.row_bytes;
  for (int n = 0; n < N; n++) x[n] = rows.x + size_t(row + n) * rows.x_stride;
  Ahead ahead = Ahead::of(w[0], R * m.row_bytes, tile);
  Floats acc[R][N] = {};
  int k = 0;
  for (; k + W <= m.in; k += W) {
    Floats xs[N];
    for (int n = 0; n < N; n++) xs[n] = load(x[n] + k);
    for (int r = 0; r < R; r++) {
      Ahead::fetch(ahead, W * T::bytes);
      const Floats ws = T::vector(w[r] + k * T::bytes);
      for (int n = 0; n < N; n++) acc[r][n] += ws * xs[n];
    }
  }
  float totals[R][N];
  sums<R * N>(&acc[0][0], &totals[0][0]);
  for (int r = 0; r < R; r++) {
    for (int n = 0; n < N; n++) {
      float total = totals[r][n];
      for (int i = k; i < m.in; i++) total += T::scalar(w[r] + i * T::bytes) * x[n][i];
      if (rows.bias != nullptr) total += rows.bias[output + r];
      rows.y[size_t(row + n) * rows.y_stride + output + r] = total;
    }
  }
}

// Rows of outputs per block. With one row of input one is best, because then memory is read in one stream (two where
// vectors are so short that one sum would wait for itself); with more, what has been loaded of the input serves
// several outputs.
constexpr int block_rows(int n) { return n == 1 ? (W == 16 ? 1 : 2) : PV_REGISTERS == 32 || n == 2 ? 4 : 2; }

// A matrix of so many bytes comes from the second cache, if anything does. Then one sum at a time would wait for itself.
constexpr size_t CACHED_BYTES = 512 * 1024;

template <class T, int N>
void dense_rows(const MatrixView& m, const Rows& rows, int begin, int end, int row, size_t tile) {
  constexpr int R = block_rows(N);
  int output = begin;
  if constexpr (N == 1) {
    if (m.row_bytes * m.out <= CACHED_BYTES) {
      for (; output + 8 <= end; output += 8) dense_block<T, 8, N>(m, rows, output, row, tile);
    }
  }
  for (; output + R <= end; output += R) dense_block<T, R, N>(m, rows, output, row, tile);
  for (; output < end; output++) dense_block<T, 1, N>(m, rows, output, row, tile);
}

// Outputs are taken in tiles that stay in the first cache while all rows pass over them, and the next one is fetched
// meanwhile. With few rows there are no tiles, and what is fetched is as near as the time it takes allows.
constexpr size_t TILE_BYTES = 24 * 1024;
constexpr size_t NEAR_BYTES = 4 * 1024;
constexpr size_t FAR_BYTES = 8 * 1024;  // of weights in fewer bytes, which are multiplied faster than they are fetched

// Calls `run(first output, last, first row, number of rows, tile)`.
template <size_t AHEAD, class Run>
PV_INLINE void in_tiles(const MatrixView& m, int count, int begin, int end, Run run) {
  int outputs = end - begin;
  size_t bytes = AHEAD;
  if (count > 4) {
    outputs = int(TILE_BYTES / (m.row_bytes + 1)) / 8 * 8;
    if (outputs < 8) outputs = 8;
    bytes = outputs * m.row_bytes;
  }
  for (int first = begin; first < end; first += outputs) {
    const int last = first + outputs < end ? first + outputs : end;
    int row = 0;
    for (; row + 4 <= count; row += 4) run(first, last, row, 4, bytes);
    if (row < count) run(first, last, row, count - row, bytes);
  }
}

template <class T>
void dense(const MatrixView& m, const Rows& rows, int begin, int end) {
  constexpr size_t near = T::bytes == 4 ? NEAR_BYTES : FAR_BYTES;
  in_tiles<near>(m, rows.count, begin, end, [&](int first, int last, int row, int n, size_t tile) {
    if (n == 4) dense_rows<T, 4>(m, rows, first, last, row, tile);
    if (n == 3) dense_rows<T, 3>(m, rows, first, last, row, tile);
    if (n == 2) dense_rows<T, 2>(m, rows, first, last, row, tile);
    if (n == 1) dense_rows<T, 1>(m, rows, first, last, row, tile);
  });
}

}  // namespace
}  // namespace packet_voice
