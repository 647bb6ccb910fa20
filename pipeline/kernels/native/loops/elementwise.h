// Norms, activations, rotary embedding and attention of single rows.

#pragma once

#include "../compute.h"
#include "products.h"
#include "simd.h"

namespace packet_voice {
namespace {

void rms_norm(const float* x, const float* weight, float eps, int dim, float* y) {
  Floats acc = {};
  int i = 0;
  for (; i + W <= dim; i += W) acc += load(x + i) * load(x + i);
  float total = sum(acc);
  for (; i < dim; i++) total += x[i] * x[i];
  const float factor = 1.0f / __builtin_sqrtf(total / float(dim) + eps);
  for (i = 0; i + W <= dim; i += W) store(y + i, load(x + i) * factor * load(weight + i));
  for (; i < dim; i++) y[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int dim, float* y) {
  Floats acc = {};
  int i = 0;
  for (; i + W <= dim; i += W) acc += load(x + i);
  float total = sum(acc);
  for (; i < dim; i++) total += x[i];
  const float mean = total / float(dim);
  acc = Floats{};
  for (i = 0; i + W <= dim; i += W) acc += (load(x + i) - mean) * (load(x + i) - mean);
  total = sum(acc);
  for (; i < dim; i++) total += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / __builtin_sqrtf(total / float(dim) + eps);
  for (i = 0; i + W <= dim; i += W) store(y + i, (load(x + i) - mean) * factor * load(weight + i) + load(bias + i));
  for (; i < dim; i++) y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

// Apply `f` to `size` numbers, the rest of them through a buffer.
template <class F>
PV_INLINE void map(const float* x, size_t size, float* y, F f) {
  size_t i = 0;
  for (; i + W <= size; i += W) store(y + i, f(load(x + i)));
  if (i < size) {
    float rest[W] = {};
    for (size_t k = i; k < size; k++) rest[k - i] = x[k];
    store(rest, f(load(rest)));
    for (size_t k = i; k < size; k++) y[k] = rest[k - i];
  }
}

void gate(const float* x, int hidden, float* y) {
  int i = 0;
  for (; i + W <= hidden; i += W) {
    const Floats g = load(x + i);
    store(y + i, g / (exponential(-g) + 1.0f) * load(x + hidden + i));
  }
  if (i < hidden) {
    float gates[W] = {};
    for (int k = i; k < hidden; k++) gates[k - i] = x[k];
    const Floats g = load(gates);
    store(gates, g / (exponential(-g) + 1.0f));
    for (int k = i; k < hidden; k++) y[k] = gates[k - i] * x[hidden + k];
  }
}

// x · Φ(x) as max(x, 0) − |x| · (1 − Φ(|x|)); the coefficients are those of `gelu_by_rational` in
// pipeline/models/layers/activations.py, where they are explained.
void gelu(float* x, int size) {
  map(x, size_t(size), x, [](Floats v) {
    const Floats magnitude = minimum(maximum(v, -v), broadcast(16.0f));
    Floats numerator = magnitude * 0.010822819359770175f;
    Floats denominator = magnitude * 0.027189399196063623f;
    numerator = (numerator + 0.09091757662267345f) * magnitude;
    denominator = (denominator + 0.2266927429485652f) * magnitude;
    numerator = (numerator + 0.3072691933236508f) * magnitude;
    denominator = (denominator + 0.8087912924818662f) * magnitude;
    numerator = (numerator + 0.4999999840794741f) * magnitude;
    denominator = (denominator + 1.4124221783150523f) * magnitude;
    const Floats tail = numerator / (denominator + 1.0f) * exponential(magnitude * magnitude * -0.5f);
    return maximum(v, Floats{}) - tail;
  });
}

void exponential_of(float* x, int size) {
  map(x, size_t(size), x, [](Floats v) { return v < -87.0f ? Floats{} : exponential(v); });
}

float greatest(const float* x, int size) {
  Floats most = broadcast(-__builtin_inff());
  int i = 0;
  for (; i + W <= size; i += W) most = maximum(load(x + i), most);  // what is no number is never greater
  float result = most[0];
  for (int k = 1; k < W; k++) result = most[k] > result ? most[k] : result;
  for (; i < size; i++) result = x[i] > result ? x[i] : result;
  return result;
}

int at_least(const float* x, int size, float bound) {
  Ints found = {};
  int i = 0;
  for (; i + W <= size; i += W) found -= load(x + i) >= bound;
  int total = 0;
  for (int k = 0; k < W; k++) total += found[k];
  for (; i < size; i++) total += x[i] >= bound;
  return total;
}

void elu(const float* x, size_t size, float* y) {
  map(x, size, y, [](Floats v) { return maximum(v, exponential(minimum(v, Floats{})) - 1.0f); });
}

void add_scaled(float* x, const float* update, const float* scale, size_t size) {
  size_t i = 0;
  if (scale == nullptr) {
    for (; i + W <= size; i += W) store(x + i, load(x + i) + load(update + i));
    for (; i < size; i++) x[i] += update[i];
  } else {
    for (; i + W <= size; i += W) store(x + i, load(x + i) + load(update + i) * load(scale + i));
    for (; i < size; i++) x[i] += update[i] * scale[i];
  }
}

void rotate(float* head, const float* cosines, const float* sines, int head_dim, Rope kind) {
  const int half = head_dim / 2;
  if (kind == Rope::None) return;
  for (int i = 0; i < half; i++) {
    float& a = kind == Rope::Interleaved ? head[2 * i] : head[i];
    float& b = kind == Rope::Interleaved ? head[2 * i + 1] : head[half + i];
    const float real = a * cosines[i] - b * sines[i];
    b = a * sines[i] + b * cosines[i];
    a = real;
  }
}

// Σ scores[s] · values[s], one vector of a head at a time so that its sums stay in registers.
template <class T, int V>
PV_INLINE void weighted_sum(const AttentionHead& h, int from) {
  Floats acc[V] = {};
  for (int s = 0; s < h.slots; s++) {
    const Floats weight = broadcast(h.scores[s]);
    const char* value = static_cast<const char*>(h.values) + (size_t(s) * h.head_dim + from) * T::bytes;
    for (int v = 0; v < V; v++) acc[v] += weight * T::vector(value + v * W * T::bytes);
  }
  for (int v = 0; v < V; v++) store(h.output + from + v * W, acc[v]);
}

template <class T>
void attend_stored(const AttentionHead& h) {
  MatrixView keys = {};
  keys.data = h.keys;
  keys.out = h.slots;
  keys.in = h.head_dim;
  keys.storage = h.storage;
  keys.row_bytes = size_t(h.head_dim) * T::bytes;
  const Rows rows = {h.query, h.scores, nullptr, 1, h.head_dim, h.slots};
  dense_rows<T, 1>(keys, rows, 0, h.slots, 0, NEAR_BYTES);
  for (int i = 0; i < h.hidden_count; i++) h.scores[h.hidden[i]] = -3e38f;
  const float scale = 1.0f / __builtin_sqrtf(float(h.head_dim));
  float best = h.scores[0];
  for (int s = 1; s < h.slots; s++) best = h.scores[s] > best ? h.scores[s] : best;
  const float offset = best * scale;
  map(h.scores, size_t(h.slots), h.scores, [=](Floats v) { return exponential(v * scale - offset); });
  for (int i = 0; i < h.hidden_count; i++) h.scores[h.hidden[i]] = 0;
  Floats acc = {};
  int s = 0;
  for (; s + W <= h.slots; s += W) acc += load(h.scores + s);
  float total = sum(acc);
  for (; s < h.slots; s++) total += h.scores[s];
  int d = 0;
  for (; d + 4 * W <= h.head_dim; d += 4 * W) weighted_sum<T, 4>(h, d);
  for (; d + 2 * W <= h.head_dim; d += 2 * W) weighted_sum<T, 2>(h, d);
  for (; d + W <= h.head_dim; d += W) weighted_sum<T, 1>(h, d);
  for (; d < h.head_dim; d++) {
    float sum_d = 0;
    const char* values = static_cast<const char*>(h.values) + d * T::bytes;
    for (int i = 0; i < h.slots; i++) sum_d += h.scores[i] * T::scalar(values + size_t(i) * h.head_dim * T::bytes);
    h.output[d] = sum_d;
  }
  const float factor = 1.0f / total;
  for (int i = 0; i < h.head_dim; i++) h.output[i] *= factor;
}

void attend(const AttentionHead& h) {
  h.storage == Storage::BF16 ? attend_stored<BF16>(h) : attend_stored<F32>(h);
}

void narrow(const float* x, int size, uint16_t* y) {
  for (int i = 0; i < size; i++) {
    uint32_t word;
    __builtin_memcpy(&word, x + i, 4);
    y[i] = uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }
}

}  // namespace
}  // namespace packet_voice
