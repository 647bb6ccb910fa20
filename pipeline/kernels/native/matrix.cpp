#include "matrix.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "dispatch.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "pool.h"

namespace packet_voice {
namespace {

constexpr int MOST_GROUPS = 960;  // see GROUPS_MAX in packed_floats.h
// See `work`: about two microseconds. Below that, handing over to another thread costs more than it saves.
constexpr size_t TASK_WORK = 64 * 1024;

// What a product costs: for each number of the weights its bytes, and one for each row that is multiplied with it.
size_t work(const MatrixView& view, int count) {
  return view.out * (view.row_bytes + size_t(view.in) * count);
}

Storage storage_of(const mx::array& values) {
  if (values.dtype() == mx::float32) return Storage::F32;
  if (values.dtype() == mx::bfloat16) return Storage::BF16;
  require(values.dtype() == mx::float16, "numbers must be float32, bfloat16 or float16");
  return Storage::F16;
}

class Linear : public mx::Primitive {
 public:
  Linear(mx::Stream stream, MatrixPtr matrix) : Primitive(stream), matrix_(std::move(matrix)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& y = outputs[0];
    y.set_data(mx::allocator::malloc(y.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::optional<mx::array> bias;
    if (inputs.size() > 1) bias = mx::array::unsafe_weak_copy(inputs[1]);
    encoder.dispatch([matrix = matrix_, x = mx::array::unsafe_weak_copy(inputs[0]), bias = std::move(bias),
                      y = mx::array::unsafe_weak_copy(y)]() mutable {
      const int count = x.shape(0);
      const float* rows = x.data<float>();
      Scratch& scratch = Scratch::here();
      scratch.reset();
      if (!x.flags().row_contiguous) {
        float* copy = scratch.take(size_t(count) * matrix->in());
        copy_rows(x, copy);
        rows = copy;
      }
      product(*matrix, rows, count, y.data<float>(), bias ? bias->data<float>() : nullptr);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("packet_voice::Linear runs on a CPU only");
  }

  DEFINE_NAME(PacketVoiceLinear)

 private:
  MatrixPtr matrix_;
};

class Embed : public mx::Primitive {
 public:
  Embed(mx::Stream stream, std::vector<MatrixPtr> tables)
      : Primitive(stream), tables_(std::make_shared<const std::vector<MatrixPtr>>(std::move(tables))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& y = outputs[0];
    y.set_data(mx::allocator::malloc(y.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([tables = tables_, tokens = mx::array::unsafe_weak_copy(inputs[0]),
                      y = mx::array::unsafe_weak_copy(y)]() mutable {
      Scratch& scratch = Scratch::here();
      scratch.reset();
      const int width = y.shape(0), steps = y.shape(1), dim = y.shape(2);
      float* row = scratch.take(dim);
      const int32_t* data = tokens.data<int32_t>();
      const auto strides = tokens.strides();
      float* out = y.data<float>();
      std::memset(out, 0, y.nbytes());
      for (int batch = 0; batch < width; batch++) {
        for (int step = 0; step < steps; step++, out += dim) {
          for (size_t t = 0; t < tables->size(); t++) {
            const Matrix& table = *(*tables)[t];
            const int token = data[batch * strides[0] + int64_t(t) * strides[1] + step * strides[2]];
            if (token < 0) continue;
            compute()->widen(table.view(), std::min(token, table.out() - 1), row);
            compute()->add_scaled(out, row, nullptr, dim);
          }
        }
      }
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("packet_voice::Embed runs on a CPU only");
  }

  DEFINE_NAME(PacketVoiceEmbed)

 private:
  std::shared_ptr<const std::vector<MatrixPtr>> tables_;
};

}  // namespace

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_contiguous(const mx::array& values) {
  require(values.is_available(), "the array has not been evaluated");
  require(values.flags().row_contiguous, "the array is not contiguous");
}

void release_siblings(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  if (outputs[0].is_tracer()) return;  // the graph is kept
  for (auto& output : outputs) {
    if (&output.inputs() != &inputs) output.inputs().clear();
  }
}

Matrix::Matrix(mx::array weight) : arrays_{weight}, view_{} {
  require(compute() != nullptr, "no instruction set has been chosen");
  require(weight.ndim() == 2 && weight.size() > 0, "a weight is a matrix");
  require_contiguous(weight);
  view_.data = weight.data<char>();
  view_.out = weight.shape(0);
  view_.in = weight.shape(1);
  view_.storage = storage_of(weight);
  view_.row_bytes = size_t(view_.in) * weight.itemsize();
}

Matrix::Matrix(mx::array words, mx::array scales, mx::array biases, int bits, int group)
    : arrays_{words, scales, biases}, view_{} {
  require(compute() != nullptr, "no instruction set has been chosen");
  require(bits == 4 || bits == 6 || bits == 8, "bits must be 4, 6 or 8");
  require(group == 32 || group == 64 || group == 128, "a group has 32, 64 or 128 numbers");
  for (const auto& each : arrays_) {
    require(each.ndim() == 2 && each.size() > 0, "words, scales and biases are matrices");
    require_contiguous(each);
  }
  require(words.dtype() == mx::uint32, "words must be uint32");
  require(scales.dtype() == biases.dtype() && scales.shape() == biases.shape(), "scales and biases must agree");
  require(scales.shape(0) == words.shape(0), "one row of scales for each row of words");
  require(scales.shape(1) <= MOST_GROUPS, "a row has too many groups");
  const int64_t in = int64_t(scales.shape(1)) * group;
  require(in * bits == int64_t(words.shape(1)) * 32, "words and scales are of different widths");
  view_.data = words.data<char>();
  view_.scales = scales.data<char>();
  view_.biases = biases.data<char>();
  view_.out = words.shape(0);
  view_.in = int(in);
  view_.group = group;
  view_.storage = bits == 4 ? Storage::Q4 : bits == 6 ? Storage::Q6 : Storage::Q8;
  view_.scale_storage = storage_of(scales);
  view_.row_bytes = size_t(words.shape(1)) * 4;
}

Vector::Vector(const mx::array& values, int size) : values_(values), data_(nullptr) {
  require(values.dtype() == mx::float32, "parameters other than matrices must be float32");
  require(values.size() == size_t(size), "a parameter has another size than its layer");
  require_contiguous(values);
  data_ = values_.data<float>();
}

Norm::Norm(const mx::array& weight, const std::optional<mx::array>& bias, float eps)
    : weight(weight, int(weight.size())), eps(eps), dim(int(weight.size())) {
  if (bias) this->bias.emplace(*bias, dim);
}

void Norm::operator()(const float* x, float* y) const {
  if (bias) {
    compute()->layer_norm(x, weight.data(), bias->data(), eps, dim, y);
  } else {
    compute()->rms_norm(x, weight.data(), eps, dim, y);
  }
}

Scratch& Scratch::here() {
  static thread_local Scratch scratch;
  return scratch;
}

Scratch::Block Scratch::allocate(size_t floats) {
  return Block(static_cast<float*>(::operator new[](floats * sizeof(float), std::align_val_t(64))));
}

void Scratch::reset() {
  used_ = 0;
  further_.clear();
  if (wanted_ > main_floats_) {
    main_ = allocate(wanted_);
    main_floats_ = wanted_;
  }
}

float* Scratch::take(size_t floats) {
  floats = (floats + 15) / 16 * 16;
  used_ += floats;
  wanted_ = std::max(wanted_, used_);
  if (used_ <= main_floats_) return main_.get() + used_ - floats;
  further_.push_back(allocate(floats));
  return further_.back().get();
}

void copy_rows(const mx::array& from, float* to) {
  const float* data = from.data<float>();
  const auto strides = from.strides();
  for (int64_t i = 0; i < from.shape(0); i++) {
    for (int64_t j = 0; j < from.shape(1); j++) *to++ = data[i * strides[0] + j * strides[1]];
  }
}

void product(const Matrix& matrix, const float* x, int count, float* y, const float* bias) {
  const Compute& c = *compute();
  const MatrixView& view = matrix.view();
  const Rows rows = {x, y, bias, count, view.in, view.out};
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  float* prepared = nullptr;
  if (const size_t floats = c.prepared_floats(view, count); floats > 0) {
    prepared = scratch.take(floats);
    c.prepare(view, rows, prepared);
  }
  const int several = threads(), most = several <= 1 ? 1 : several * 4;
  int tasks = int(std::clamp<size_t>(work(view, count) / TASK_WORK, 1, most));
  if (tasks < 2 * several) tasks = std::min(tasks, several);  // of three tasks one thread would have two
  const int blocks = (view.out + 7) / 8;  // of outputs
  const int share = (blocks + tasks - 1) / tasks * 8;
  in_parallel(tasks, [&](int task) {
    const int begin = std::min(view.out, task * share), end = std::min(view.out, begin + share);
    if (begin < end) c.multiply(view, rows, prepared, begin, end);
  });
  scratch.release(mark);
}

mx::array linear(const mx::array& x, MatrixPtr matrix, const std::optional<mx::array>& bias) {
  require(x.ndim() == 2, "linear takes rows");
  require(x.dtype() == mx::float32, "linear takes float32");
  require(x.shape(1) == matrix->in(), "the rows have another width than the matrix");
  std::vector<mx::array> inputs{x};
  if (bias) {
    require(bias->dtype() == mx::float32 && bias->ndim() == 1 && bias->shape(0) == matrix->out(), "bias [out] float32");
    require_contiguous(*bias);
    inputs.push_back(*bias);
  }
  mx::Shape shape{x.shape(0), matrix->out()};
  auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array(std::move(shape), mx::float32, std::make_shared<Linear>(stream, std::move(matrix)), std::move(inputs));
}

mx::array embed(const std::vector<MatrixPtr>& tables, const mx::array& tokens) {
  require(!tables.empty() && tokens.ndim() == 3, "tokens are [w, tables, T]");
  require(size_t(tokens.shape(1)) == tables.size(), "one token for each table");
  require(tokens.dtype() == mx::int32, "tokens are int32");
  for (const auto& table : tables) {
    require(table != nullptr && table->in() == tables[0]->in(), "the tables have different widths");
  }
  mx::Shape shape{tokens.shape(0), tokens.shape(2), tables[0]->in()};
  auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array(std::move(shape), mx::float32, std::make_shared<Embed>(stream, tables), {tokens});
}

}  // namespace packet_voice
