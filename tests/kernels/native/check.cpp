// Compares the loops of every instruction set that this processor has with plain ones, without MLX or Python.
//
// Inputs end exactly where their memory ends, so that the address sanitizer sees a read beyond it.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "compute.h"
#include "dispatch.h"

using namespace packet_voice;

namespace {

std::mt19937 random_bits(1);
int wrong = 0;

float number() { return std::normal_distribution<float>()(random_bits); }

std::vector<float> numbers(size_t size) {
  std::vector<float> values(size);
  for (float& each : values) each = number();
  return values;
}

void expect(bool right, const char* what, const std::string& where) {
  if (right) return;
  wrong++;
  std::printf("%s is wrong: %s\n", what, where.c_str());
}

bool close(double one, double other, double scale) { return std::fabs(one - other) <= 2e-5 * scale + 1e-6; }

uint16_t bfloat16(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  return uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

// A matrix in each of the formats, and its numbers.
struct Made {
  std::vector<uint8_t> data;
  std::vector<uint16_t> scales, biases;
  std::vector<float> exact;
  MatrixView view{};
};

Made make(Storage storage, int out, int in, int group) {
  Made made;
  made.view.out = out;
  made.view.in = in;
  made.view.group = group;
  made.view.storage = storage;
  made.view.scale_storage = Storage::BF16;
  made.exact.resize(size_t(out) * in);
  if (storage == Storage::F32 || storage == Storage::BF16 || storage == Storage::F16) {
    const size_t bytes = storage == Storage::F32 ? 4 : 2;
    made.view.row_bytes = in * bytes;
    made.data.resize(size_t(out) * in * bytes);
    for (size_t i = 0; i < made.exact.size(); i++) {
      if (storage == Storage::F32) {
        made.exact[i] = number();
        std::memcpy(&made.data[i * 4], &made.exact[i], 4);
      } else if (storage == Storage::BF16) {
        const uint16_t half = bfloat16(number());
        std::memcpy(&made.data[i * 2], &half, 2);
        const uint32_t word = uint32_t(half) << 16;
        std::memcpy(&made.exact[i], &word, 4);
      } else {  // a sign, a 5-bit exponent, a 10-bit fraction; subnormal numbers included
        const uint16_t half = uint16_t((random_bits() & 0x83ff) | (random_bits() % 20) << 10);
        std::memcpy(&made.data[i * 2], &half, 2);
        const int exponent = (half >> 10) & 31;
        const float fraction = float(half & 0x3ff) / 1024;
        const float size = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
        made.exact[i] = half & 0x8000 ? -size : size;
      }
    }
  } else {
    const int bits = storage == Storage::Q4 ? 4 : storage == Storage::Q6 ? 6 : 8;
    made.view.row_bytes = size_t(in) * bits / 8;
    made.data.assign(made.view.row_bytes * out, 0);
    made.scales.resize(size_t(out) * in / group);
    made.biases.resize(made.scales.size());
    for (size_t g = 0; g < made.scales.size(); g++) {
      made.scales[g] = bfloat16(number() / 8);
      made.biases[g] = bfloat16(number());
    }
    for (int row = 0; row < out; row++) {
      for (int i = 0; i < in; i++) {
        const unsigned q = random_bits() % (1u << bits);
        const size_t bit = size_t(i) * bits;
        uint8_t* at = &made.data[row * made.view.row_bytes + bit / 8];
        const unsigned word = q << (bit % 8);
        at[0] |= uint8_t(word);
        if (word > 255) at[1] |= uint8_t(word >> 8);
        const size_t g = size_t(row) * (in / group) + i / group;
        float scale, bias;
        const uint32_t scale_word = uint32_t(made.scales[g]) << 16, bias_word = uint32_t(made.biases[g]) << 16;
        std::memcpy(&scale, &scale_word, 4);
        std::memcpy(&bias, &bias_word, 4);
        made.exact[size_t(row) * in + i] = scale * float(q) + bias;
      }
    }
    made.view.scales = made.scales.data();
    made.view.biases = made.biases.data();
  }
  made.view.data = made.data.data();
  return made;
}

void products(const Compute& c) {
  for (const Storage storage :
       {Storage::F32, Storage::BF16, Storage::F16, Storage::Q4, Storage::Q6, Storage::Q8}) {
    const bool dense = storage <= Storage::F16;
    for (const int in : dense ? std::vector<int>{1, 7, 16, 40, 131} : std::vector<int>{32, 64, 96, 128, 192, 384}) {
      for (const int group : dense ? std::vector<int>{1} : std::vector<int>{32, 64, 128}) {
        if (!dense && in % group != 0) continue;
        for (const int out : {1, 3, 9, 33}) {
          const Made made = make(storage, out, in, group);
          for (const int count : {1, 2, 3, 4, 5, 11}) {
            const std::vector<float> x = numbers(size_t(count) * in), bias = numbers(out);
            std::vector<float> y(size_t(count) * out), prepared(c.prepared_floats(made.view, count));
            const Rows rows = {x.data(), y.data(), bias.data(), count, in, out};
            c.prepare(made.view, rows, prepared.data());
            c.multiply(made.view, rows, prepared.data(), 0, out / 2);
            c.multiply(made.view, rows, prepared.data(), out / 2, out);
            for (int row = 0; row < count; row++) {
              for (int o = 0; o < out; o++) {
                double sum = bias[o], size = 1;
                for (int k = 0; k < in; k++) {
                  const double term = double(x[row * in + k]) * made.exact[size_t(o) * in + k];
                  sum += term;
                  size += std::fabs(term);
                }
                std::ostringstream where;
                where << c.name << ", format " << int(storage) << ", " << out << " x " << in << ", group " << group;
                expect(close(y[row * out + o], sum, size), "a product", where.str());
              }
            }
          }
          std::vector<float> row(in);
          c.widen(made.view, out - 1, row.data());
          for (int i = 0; i < in; i++) {
            expect(close(row[i], made.exact[size_t(out - 1) * in + i], 1), "a widened row", c.name);
          }
        }
      }
    }
  }
}

void elementwise(const Compute& c) {
  for (const int size : {1, 5, 8, 16, 23, 64, 100}) {
    const std::vector<float> x = numbers(size), weight = numbers(size), bias = numbers(size);
    std::vector<float> y(size);
    double mean = 0, squares = 0, variance = 0;
    for (const float each : x) {
      mean += each / size;
      squares += double(each) * each / size;
    }
    for (const float each : x) variance += (each - mean) * (each - mean) / size;
    c.rms_norm(x.data(), weight.data(), 1e-5f, size, y.data());
    for (int i = 0; i < size; i++) {
      expect(close(y[i], x[i] / std::sqrt(squares + 1e-5) * weight[i], 3), "the RMS norm", c.name);
    }
    c.layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, size, y.data());
    for (int i = 0; i < size; i++) {
      expect(close(y[i], (x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i], 5), "the layer norm", c.name);
    }
    const std::vector<float> both = numbers(2 * size);
    c.gate(both.data(), size, y.data());
    for (int i = 0; i < size; i++) {
      expect(close(y[i], both[i] / (1 + std::exp(-double(both[i]))) * both[size + i], 2), "gating", c.name);
    }
    y = x;
    c.gelu(y.data(), size);
    for (int i = 0; i < size; i++) expect(close(y[i], x[i] * 0.5 * std::erfc(-x[i] / std::sqrt(2.0)), 2), "GELU", c.name);
    c.elu(x.data(), size, y.data());
    for (int i = 0; i < size; i++) expect(close(y[i], x[i] > 0 ? x[i] : std::expm1(x[i]), 1), "ELU", c.name);
    y = x;
    c.exponential(y.data(), size);
    for (int i = 0; i < size; i++) expect(close(y[i], std::exp(double(x[i])), std::exp(x[i])), "e^x", c.name);
    expect(c.greatest(x.data(), size) == *std::max_element(x.begin(), x.end()), "the greatest", c.name);
    const auto reaches = [&](float each) { return each >= x[0]; };
    expect(c.at_least(x.data(), size, x[0]) == std::count_if(x.begin(), x.end(), reaches), "a count", c.name);
    y = x;
    y[size / 2] = std::nanf("");
    expect(c.at_least(y.data(), size, -INFINITY) == size - 1, "a count of numbers", c.name);
    const float rest = c.greatest(y.data(), size);
    expect(size == 1 ? rest == -INFINITY : std::find(x.begin(), x.end(), rest) != x.end(), "the rest", c.name);
    y = x;
    c.add_scaled(y.data(), weight.data(), bias.data(), size);
    for (int i = 0; i < size; i++) expect(close(y[i], x[i] + double(weight[i]) * bias[i], 3), "a scaled sum", c.name);
  }
  for (const Rope kind : {Rope::Interleaved, Rope::Halves}) {
    std::vector<float> head = numbers(12);
    const std::vector<float> before = head, angles = numbers(6);
    std::vector<float> cosines(6), sines(6);
    for (int i = 0; i < 6; i++) {
      cosines[i] = std::cos(angles[i]);
      sines[i] = std::sin(angles[i]);
    }
    c.rotate(head.data(), cosines.data(), sines.data(), 12, kind);
    for (int i = 0; i < 6; i++) {
      const int a = kind == Rope::Interleaved ? 2 * i : i, b = kind == Rope::Interleaved ? 2 * i + 1 : 6 + i;
      expect(close(head[a], before[a] * cosines[i] - before[b] * sines[i], 3), "the rotation", c.name);
      expect(close(head[b], before[a] * sines[i] + before[b] * cosines[i], 3), "the rotation", c.name);
    }
  }
}

void attention(const Compute& c) {
  for (const int dim : {4, 16, 24, 64, 80}) {
    for (const int slots : {1, 2, 17, 40}) {
      const std::vector<float> query = numbers(dim), keys = numbers(size_t(slots) * dim), values = numbers(size_t(slots) * dim);
      std::vector<float> scores(slots), output(dim);
      const std::vector<int> hidden = slots > 2 ? std::vector<int>{1, slots - 1} : std::vector<int>{};
      AttentionHead head = {query.data(), keys.data(), values.data(), scores.data(), output.data(),
                            hidden.data(), int(hidden.size()), slots, dim, Storage::F32};
      c.attend(head);
      std::vector<double> weights(slots);
      double total = 0;
      for (int s = 0; s < slots; s++) {
        double score = 0;
        for (int d = 0; d < dim; d++) score += double(query[d]) * keys[size_t(s) * dim + d];
        if (std::find(hidden.begin(), hidden.end(), s) == hidden.end()) weights[s] = std::exp(score / std::sqrt(double(dim)));
        total += weights[s];
      }
      for (int d = 0; d < dim; d++) {
        double sum = 0;
        for (int s = 0; s < slots; s++) sum += weights[s] / total * values[size_t(s) * dim + d];
        expect(close(output[d], sum, 4), "attention", c.name);
      }
    }
  }
}

void convolutions(const Compute& c) {
  for (const int out : {1, 2, 3, 4, 31, 32, 70}) {
    for (const int inner : {1, 7, 24}) {
      for (const int taps : {1, 3}) {
        const int depth = taps * inner, stride = inner + 2;
        const std::vector<float> weight = numbers(size_t(out) * depth), bias = numbers(out);
        std::vector<float> packed(c.packed_floats(out, depth));
        c.pack(weight.data(), out, depth, packed.data());
        for (const int count : {1, 5, 12, 29}) {
          const std::vector<float> x = numbers(size_t(count - 1) * 3 + size_t(taps - 1) * stride + inner);
          std::vector<float> y(size_t(count) * out);
          std::vector<const float*> rows;
          std::vector<float*> outputs;
          for (int i = 0; i < count; i++) {
            rows.push_back(x.data() + i * 3);
            outputs.push_back(y.data() + size_t(i) * out);
          }
          const ConvRows conv = {rows.data(), outputs.data(), packed.data(), bias.data(), count, taps, stride, inner, out};
          c.convolve(conv, 0, c.panels(out));
          for (int i = 0; i < count; i++) {
            for (int o = 0; o < out; o++) {
              double sum = bias[o];
              for (int t = 0; t < taps; t++) {
                for (int k = 0; k < inner; k++) sum += double(rows[i][t * stride + k]) * weight[size_t(o) * depth + t * inner + k];
              }
              expect(close(y[size_t(i) * out + o], sum, 20), "a convolution", c.name);
            }
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  std::istringstream names(supported());
  std::string name;
  int sets = 0;
  while (std::getline(names, name, ',')) {
    expect(choose(name), "the choice", name);
    const Compute& c = *compute();
    products(c);
    elementwise(c);
    attention(c);
    convolutions(c);
    sets++;
  }
  expect(sets > 0, "this processor", "no instruction set");
  expect(!choose("mmx"), "the choice", "mmx");
  std::printf("%d instruction sets, %d wrong\n", sets, wrong);
  return wrong == 0 ? 0 : 1;
}
