// Convolutions as products with packed weights: rows of the input times panels of output channels.
//
// A panel holds PANEL output channels of every weight, in the order in which they are read. A block of rows is
// multiplied with one panel at a time; its sums stay in registers from the first tap to the last.

#pragma once

#include "../compute.h"
#include "simd.h"

namespace packet_voice {
namespace {

constexpr int PANEL = 2 * W;
constexpr int BLOCK = PV_WIDTH == 16 ? 12 : PV_REGISTERS == 32 ? 6 : 6;

// So few output channels would leave most of a panel empty; their weights stay as they are.
constexpr int NARROW = 3;

int panels(int out) { return out <= NARROW ? 1 : (out + PANEL - 1) / PANEL; }

size_t packed_floats(int out, int depth) {
  return out <= NARROW ? size_t(out) * depth : size_t(panels(out)) * PANEL * depth;
}

void pack(const float* weight, int out, int depth, float* packed) {
  if (out <= NARROW) {
    for (size_t i = 0; i < size_t(out) * depth; i++) packed[i] = weight[i];
    return;
  }
  for (int panel = 0; panel < panels(out); panel++) {
    for (int k = 0; k < depth; k++) {
      for (int i = 0; i < PANEL; i++) {
        const int o = panel * PANEL + i;
        *packed++ = o < out ? weight[size_t(o) * depth + k] : 0.0f;
      }
    }
  }
}

template <int M>
PV_INLINE void convolve_block(const ConvRows& c, const float* weights, int panel, int row) {
  const float* x[M];
  for (int m = 0; m < M; m++) x[m] = c.rows[row + m];
  const int first = panel * PANEL;
  const int width = c.out - first < PANEL ? c.out - first : PANEL;
  alignas(64) float bias[PANEL] = {};
  if (c.bias != nullptr) {
    for (int i = 0; i < width; i++) bias[i] = c.bias[first + i];
  }
  Floats low[M], high[M];
  for (int m = 0; m < M; m++) {
    low[m] = load(bias);
    high[m] = load(bias + W);
  }
  for (int tap = 0; tap < c.taps; tap++) {
    const ptrdiff_t offset = ptrdiff_t(tap) * c.tap_stride;
    for (int i = 0; i < c.inner; i++) {
      const Floats w_low = load(weights), w_high = load(weights + W);
      weights += PANEL;
      for (int m = 0; m < M; m++) {
        const Floats value = broadcast(x[m][offset + i]);
        low[m] += value * w_low;
        high[m] += value * w_high;
      }
    }
  }
  for (int m = 0; m < M; m++) {
    float* y = c.outputs[row + m] + first;
    if (width == PANEL) {
      store(y, low[m]);
      store(y + W, high[m]);
    } else {
      alignas(64) float values[PANEL];
      store(values, low[m]);
      store(values + W, high[m]);
      for (int i = 0; i < width; i++) y[i] = values[i];
    }
  }
}

template <int M>
void convolve_rest(const ConvRows& c, const float* weights, int panel, int row, int rest) {
  if constexpr (M > 0) {
    if (rest == M) return convolve_block<M>(c, weights, panel, row);
    convolve_rest<M - 1>(c, weights, panel, row, rest);
  }
}

// Products along the taps, for few output channels.
void convolve_narrow(const ConvRows& c) {
  for (int o = 0; o < c.out; o++) {
    for (int row = 0; row < c.count; row++) {
      const float* w = c.packed + size_t(o) * c.taps * c.inner;
      Floats acc = {};
      float rest = 0;
      for (int tap = 0; tap < c.taps; tap++) {
        const float* x = c.rows[row] + ptrdiff_t(tap) * c.tap_stride;
        int i = 0;
        for (; i + W <= c.inner; i += W) acc += load(x + i) * load(w + i);
        for (; i < c.inner; i++) rest += x[i] * w[i];
        w += c.inner;
      }
      c.outputs[row][o] = sum(acc) + rest + (c.bias != nullptr ? c.bias[o] : 0.0f);
    }
  }
}

void convolve(const ConvRows& c, int begin, int end) {
  if (c.out <= NARROW) return convolve_narrow(c);
  const size_t panel_floats = size_t(PANEL) * c.taps * c.inner;
  for (int panel = begin; panel < end; panel++) {
    const float* weights = c.packed + panel * panel_floats;
    int row = 0;
    for (; row + BLOCK <= c.count; row += BLOCK) convolve_block<BLOCK>(c, weights, panel, row);
    if (row < c.count) convolve_rest<BLOCK - 1>(c, weights, panel, row, c.count - row);
  }
}

}  // namespace
}  // namespace packet_voice
