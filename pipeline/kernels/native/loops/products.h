// Products of a few rows with a matrix whose numbers are widened in registers, never in memory.
//
// A block of R outputs is computed for several rows at once, so that a weight that has been loaded and widened
// serves all of them. Every pair of output and row has one accumulator and one order of summation, whatever R and
// the number of rows are: a row's result does not depend on the rows beside it.

#pragma once

#include "../compute.h"
#include "dense.h"
#include "packed.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#include "packed_digits.h"
#else
#include "packed_floats.h"
#endif

namespace packet_voice {
namespace {

size_t prepared_floats(const MatrixView& m, int count) {
  switch (m.storage) {
    case Storage::Q4: return prepared_row<4>(m) * count;
    case Storage::Q6: return prepared_row<6>(m) * count;
    case Storage::Q8: return prepared_row<8>(m) * count;
    default: return 0;
  }
}

void prepare(const MatrixView& m, const Rows& rows, float* prepared) {
  switch (m.storage) {
    case Storage::Q4: return prepare_packed<4>(m, rows, prepared);
    case Storage::Q6: return prepare_packed<6>(m, rows, prepared);
    case Storage::Q8: return prepare_packed<8>(m, rows, prepared);
    default: return;
  }
}

void multiply(const MatrixView& m, const Rows& rows, const float* prepared, int begin, int end) {
  switch (m.storage) {
    case Storage::F32: return dense<F32>(m, rows, begin, end);
    case Storage::BF16: return dense<BF16>(m, rows, begin, end);
    case Storage::F16: return dense<F16>(m, rows, begin, end);
    case Storage::Q4: return packed<4>(m, rows, prepared, begin, end);
    case Storage::Q6: return packed<6>(m, rows, prepared, begin, end);
    case Storage::Q8: return packed<8>(m, rows, prepared, begin, end);
  }
}

template <int B>
void widen_packed(const MatrixView& m, int row, float* out) {
  const unsigned char* data = static_cast<const unsigned char*>(m.data) + size_t(row) * m.row_bytes;
  const int groups = m.in / m.group;
  for (int i = 0; i < m.in; i++) {
    const size_t bit = size_t(i) * B;
    unsigned word = data[bit / 8];
    if (bit % 8 + B > 8) word |= unsigned(data[bit / 8 + 1]) << 8;
    const float q = float((word >> (bit % 8)) & ((1u << B) - 1));
    const size_t g = size_t(row) * groups + i / m.group;
    out[i] = scale_at(m.scales, m.scale_storage, g) * q + scale_at(m.biases, m.scale_storage, g);
  }
}

template <class T>
void widen_dense(const MatrixView& m, int row, float* out) {
  widen_scales<T>(static_cast<const char*>(m.data) + size_t(row) * m.row_bytes, m.in, out);
}

void widen(const MatrixView& m, int row, float* out) {
  switch (m.storage) {
    case Storage::F32: return widen_dense<F32>(m, row, out);
    case Storage::BF16: return widen_dense<BF16>(m, row, out);
    case Storage::F16: return widen_dense<F16>(m, row, out);
    case Storage::Q4: return widen_packed<4>(m, row, out);
    case Storage::Q6: return widen_packed<6>(m, row, out);
    case Storage::Q8: return widen_packed<8>(m, row, out);
  }
}

}  // namespace
}  // namespace packet_voice
