// What each instruction set implements: loops over plain memory, without MLX and without allocations.
//
// `compute.cpp` is compiled once for every instruction set of the processor family, and `dispatch.cpp`
// chooses among the results at run time. Only plain data crosses this boundary. The files that are compiled
// for an instruction set must not use the C++ library: the linker keeps one copy of an inline function, and
// that copy might use instructions that another machine does not have.

#pragma once

#include <cstddef>
#include <cstdint>

namespace packet_voice {

// How numbers are stored. Q4, Q6 and Q8 are MLX's packing: groups with a scale and a bias each.
enum class Storage : uint8_t { F32, BF16, F16, Q4, Q6, Q8 };

// A matrix [out, in] in memory, row by row.
struct MatrixView {
  const void* data;  // numbers, or 32-bit words of packed numbers
  const void* scales;  // [out, in / group], stored as `scale_storage`
  const void* biases;
  int out;
  int in;
  int group;
  Storage storage;
  Storage scale_storage;
  size_t row_bytes;
};

// Rows of a product's input, and where its outputs go. Strides in floats.
struct Rows {
  const float* x;
  float* y;
  const float* bias;  // [out], or null
  int count;
  int x_stride;
  int y_stride;
};

enum class Rope : uint8_t { None, Interleaved, Halves };

// One head of one lane's attention over its filled slots.
struct AttentionHead {
  const float* query;  // [head_dim]
  const void* keys;  // [slots, head_dim], stored as `storage`, F32 or BF16
  const void* values;
  float* scores;  // scratch, [slots]
  float* output;  // [head_dim]
  const int* hidden;  // slots that this query may not read
  int hidden_count;
  int slots;
  int head_dim;
  Storage storage;
};

// A convolution as a product: row i of the input starts at `rows[i]`; tap k of it is `tap_stride` floats further.
struct ConvRows {
  const float* const* rows;  // [count]
  float* const* outputs;  // [count], each [out]
  const float* packed;  // `packed_floats` of the weights, by `pack`
  const float* bias;  // [out], or null
  int count;
  int taps;
  int tap_stride;
  int inner;  // numbers of one tap
  int out;
};

struct Compute {
  const char* name;
  // Floats that `prepare` writes for `count` rows.
  size_t (*prepared_floats)(const MatrixView& matrix, int count);
  // Arrange `rows.x` as `multiply` reads it.
  void (*prepare)(const MatrixView& matrix, const Rows& rows, float* prepared);
  // Outputs `begin` to `end` of all rows; each row's result depends on that row alone, bit for bit.
  void (*multiply)(const MatrixView& matrix, const Rows& rows, const float* prepared, int begin, int end);
  void (*widen)(const MatrixView& matrix, int row, float* out);  // one row as floats
  void (*rms_norm)(const float* x, const float* weight, float eps, int dim, float* y);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int dim, float* y);
  void (*gate)(const float* x, int hidden, float* y);  // silu(x[:hidden]) * x[hidden:]
  void (*gelu)(float* x, int size);
  void (*exponential)(float* x, int size);  // below -87 it is 0
  float (*greatest)(const float* x, int size);  // of what are numbers; −infinity without any
  int (*at_least)(const float* x, int size, float bound);  // how many are no smaller
  void (*elu)(const float* x, size_t size, float* y);
  void (*add_scaled)(float* x, const float* update, const float* scale, size_t size);  // scale may be null
  void (*rotate)(float* head, const float* cosines, const float* sines, int head_dim, Rope kind);
  void (*attend)(const AttentionHead& head);
  void (*narrow)(const float* x, int size, uint16_t* y);  // to bfloat16, to the nearest, ties to even
  size_t (*packed_floats)(int out, int depth);
  void (*pack)(const float* weight, int out, int depth, float* packed);  // weight [out, depth]
  void (*convolve)(const ConvRows& conv, int begin, int end);  // panels `begin` to `end`
  int (*panels)(int out);
};

}  // namespace packet_voice
