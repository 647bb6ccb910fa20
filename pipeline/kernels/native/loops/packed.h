// What both ways of multiplying packed weights share; `products.h` chooses one.
//
// A group of numbers of 4, 6 or 8 bits has a scale and a bias. (scale · q + bias) · x, summed over a group, is
// scale · Σ q·x + bias · Σ x, so that the scale of a group is applied once, and the sums of the groups of the input
// come into a product once for all outputs.

#pragma once

#include "../compute.h"
#include "dense.h"
#include "simd.h"

namespace packet_voice {
namespace {

PV_INLINE float scale_at(const void* p, Storage storage, size_t i) {
  if (storage == Storage::F32) return F32::scalar(static_cast<const char*>(p) + i * 4);
  if (storage == Storage::BF16) return BF16::scalar(static_cast<const char*>(p) + i * 2);
  return F16::scalar(static_cast<const char*>(p) + i * 2);
}

template <class T>
PV_INLINE void widen_scales(const char* p, int count, float* out) {
  int i = 0;
  for (; i + W <= count; i += W) store(out + i, T::vector(p + i * T::bytes));
  for (; i < count; i++) out[i] = T::scalar(p + i * T::bytes);
}

// The groups of a row, up to a whole number of vectors.
PV_INLINE int groups_padded(const MatrixView& m) { return (m.in / m.group + W - 1) / W * W; }

// A block of outputs: the sum of each vector, and the output's bias.
template <int R, int N>
PV_INLINE void write_sums(const Floats (&acc)[R][N], const Rows& rows, int output, int row) {
  float totals[R][N];
  sums<R * N>(&acc[0][0], &totals[0][0]);
  for (int r = 0; r < R; r++) {
    for (int n = 0; n < N; n++) {
      float total = totals[r][n];
      if (rows.bias != nullptr) total += rows.bias[output + r];
      rows.y[size_t(row + n) * rows.y_stride + output + r] = total;
    }
  }
}

}  // namespace
}  // namespace packet_voice
