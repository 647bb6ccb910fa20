// Weights as MLX arrays, and products with them.

#pragma once

#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "compute.h"
#include "mlx/array.h"

namespace packet_voice {

namespace mx = mlx::core;

// The weights of one linear layer, [out, in], as the checkpoint has them. They are read where MLX keeps them.
class Matrix {
 public:
  // float32, bfloat16 or float16.
  explicit Matrix(mx::array weight);
  // MLX's packing of 4, 6 or 8 bits.
  Matrix(mx::array words, mx::array scales, mx::array biases, int bits, int group);

  const MatrixView& view() const { return view_; }
  int out() const { return view_.out; }
  int in() const { return view_.in; }

 private:
  std::vector<mx::array> arrays_;  // keep the memory alive
  MatrixView view_;
};

using MatrixPtr = std::shared_ptr<const Matrix>;

// A vector of float32 parameters.
class Vector {
 public:
  Vector(const mx::array& values, int size);
  const float* data() const { return data_; }

 private:
  mx::array values_;
  const float* data_;
};

struct Norm {
  Vector weight;
  std::optional<Vector> bias;  // a layer norm has one
  float eps;
  int dim;

  Norm(const mx::array& weight, const std::optional<mx::array>& bias, float eps);
  void operator()(const float* x, float* y) const;
};

// Memory of the calling thread that is used again in the next call; it grows and never shrinks.
class Scratch {
 public:
  static Scratch& here();
  // To be called when a task begins: whatever was taken before is free.
  void reset();
  // `floats` numbers, aligned to a cache line.
  float* take(size_t floats);
  // What was taken after `mark` is free again after `release(mark)`.
  size_t mark() const { return used_; }
  void release(size_t mark) { used_ = mark; }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  using Block = std::unique_ptr<float[], Free>;
  static Block allocate(size_t floats);

  Block main_;
  std::vector<Block> further_;  // what the main block was too small for, until `reset`
  size_t main_floats_ = 0;
  size_t used_ = 0;
  size_t wanted_ = 0;
};

// `y [count, out]` of `x [count, in]`, on as many threads as pay.
void product(const Matrix& matrix, const float* x, int count, float* y, const float* bias = nullptr);

// Copy a two-dimensional float32 array of any strides to `to`.
void copy_rows(const mx::array& from, float* to);

// An op: `x [n, in]` float32 → `[n, out]` float32.
mx::array linear(const mx::array& x, MatrixPtr matrix, const std::optional<mx::array>& bias);

// An op: the sum over the tables of one row each: `tokens [w, tables, T]` int32 → `[w, T, D]`; −1 adds nothing.
mx::array embed(const std::vector<MatrixPtr>& tables, const mx::array& tokens);

// Throws std::invalid_argument with `message` unless `condition`.
void require(bool condition, const char* message);

// An array that has been evaluated and lies in memory row by row.
void require_contiguous(const mx::array& values);

// Let `inputs` of a multi-output primitive be donated: its other outputs refer to them, too, until they are
// detached from the graph, which happens right after the evaluation.
void release_siblings(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs);

}  // namespace packet_voice
