#include "seanet.h"

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

constexpr size_t MOST_LAYERS = 64;
constexpr int64_t TASK_PRODUCTS = 512 * 1024;  // multiplications below which a layer takes one thread

// Multiply rows with packed weights, on as many threads as pay.
void convolve(const Compute& c, const ConvRows& rows) {
  const int panels = c.panels(rows.out);
  const int64_t products = int64_t(rows.count) * rows.out * rows.taps * rows.inner;
  const int most = threads() <= 1 ? 1 : threads() * 2;
  const int wanted = int(std::clamp<int64_t>(products / TASK_PRODUCTS, 1, most));
  if (panels >= wanted) {
    in_parallel(wanted, [&](int task) {
      c.convolve(rows, task * panels / wanted, (task + 1) * panels / wanted);
    });
    return;
  }
  in_parallel(wanted, [&](int task) {  // few channels, many rows
    ConvRows part = rows;
    const int begin = int(int64_t(task) * rows.count / wanted), end = int(int64_t(task + 1) * rows.count / wanted);
    part.rows += begin;
    part.outputs += begin;
    part.count = end - begin;
    c.convolve(part, 0, panels);
  });
}

template <class T>
T* pointers(Scratch& scratch, size_t count) {
  return reinterpret_cast<T*>(scratch.take(count * sizeof(T) / sizeof(float)));
}

void copy_strided(const mx::array& from, float* to) {
  const float* data = from.data<float>();
  const auto strides = from.strides();
  for (int64_t a = 0; a < from.shape(0); a++) {
    for (int64_t b = 0; b < from.shape(1); b++) {
      for (int64_t c = 0; c < from.shape(2); c++) *to++ = data[a * strides[0] + b * strides[1] + c * strides[2]];
    }
  }
}

class SeanetStep : public mx::Primitive {
 public:
  SeanetStep(mx::Stream stream, std::shared_ptr<const Seanet> seanet)
      : Primitive(stream), seanet_(std::move(seanet)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (auto& each : outputs) each.set_data(mx::allocator::malloc(each.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([seanet = seanet_, x = mx::array::unsafe_weak_copy(inputs[0]),
                      before = mx::array::unsafe_weak_copy(inputs[1]), y = mx::array::unsafe_weak_copy(outputs[0]),
                      after = mx::array::unsafe_weak_copy(outputs[1])]() mutable {
      Scratch& scratch = Scratch::here();
      scratch.reset();
      const float* samples = x.data<float>();
      if (!x.flags().row_contiguous) {
        float* copy = scratch.take(x.size());
        copy_strided(x, copy);
        samples = copy;
      }
      const float* past = before.data<float>();
      if (!before.flags().row_contiguous) {
        float* copy = scratch.take(before.size());
        copy_rows(before, copy);
        past = copy;
      }
      seanet->run(samples, x.shape(0), x.shape(1), past, after.data<float>(), y.data<float>());
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("packet_voice::SeanetStep runs on a CPU only");
  }

  DEFINE_NAME(PacketVoiceSeanetStep)

 private:
  std::shared_ptr<const Seanet> seanet_;
};

class Quantize : public mx::Primitive {
 public:
  using Quantizers = std::vector<std::shared_ptr<const Quantizer>>;

  Quantize(mx::Stream stream, Quantizers quantizers)
      : Primitive(stream), quantizers_(std::make_shared<const Quantizers>(std::move(quantizers))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& codes = outputs[0];
    codes.set_data(mx::allocator::malloc(codes.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([quantizers = quantizers_, x = mx::array::unsafe_weak_copy(inputs[0]),
                      codes = mx::array::unsafe_weak_copy(codes)]() mutable {
      Scratch& scratch = Scratch::here();
      scratch.reset();
      float* rows = scratch.take(x.size());
      copy_rows(x, rows);
      int32_t* first = codes.data<int32_t>();
      for (const auto& each : *quantizers) {
        each->encode(rows, x.shape(0), first, codes.shape(1));
        first += each->levels();
      }
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("packet_voice::Quantize runs on a CPU only");
  }

  DEFINE_NAME(PacketVoiceQuantize)

 private:
  std::shared_ptr<const Quantizers> quantizers_;
};

std::vector<float> numbers(const mx::array& values) {
  require(values.dtype() == mx::float32, "the codec's weights must be float32");
  require_contiguous(values);
  return std::vector<float>(values.data<float>(), values.data<float>() + values.size());
}

}  // namespace

ConvolutionPtr Convolution::causal(
    const mx::array& weight, const std::optional<mx::array>& bias, int stride, int dilation, bool activated) {
  require(compute() != nullptr, "no instruction set has been chosen");
  require(weight.ndim() == 3 && weight.size() > 0, "weight is [out, kernel, in]");
  require(stride > 0 && dilation > 0, "stride and dilation are positive");
  std::shared_ptr<Convolution> layer(new Convolution);
  layer->compute_ = compute();
  layer->out_ = weight.shape(0);
  layer->kernel_ = weight.shape(1);
  layer->in_ = weight.shape(2);
  layer->stride_ = stride;
  layer->dilation_ = dilation;
  layer->activated_ = activated;
  require((layer->kernel_ - 1) * dilation + 1 >= stride, "the kernel is shorter than the stride");
  const std::vector<float> values = numbers(weight);
  const int depth = layer->kernel_ * layer->in_;
  layer->packed_.resize(compute()->packed_floats(layer->out_, depth));
  compute()->pack(values.data(), layer->out_, depth, layer->packed_.data());
  if (bias) layer->bias_ = numbers(*bias);
  require(!bias || layer->bias_.size() == size_t(layer->out_), "bias is [out]");
  return layer;
}

ConvolutionPtr Convolution::transposed(
    const mx::array& weight, const std::optional<mx::array>& bias, int stride, bool activated) {
  require(compute() != nullptr, "no instruction set has been chosen");
  require(weight.ndim() == 3 && weight.size() > 0, "weight is [2 * stride, out, in]");
  require(stride > 0 && weight.shape(0) == 2 * stride, "the kernel is not twice the stride");
  std::shared_ptr<Convolution> layer(new Convolution);
  layer->compute_ = compute();
  layer->kernel_ = weight.shape(0);
  layer->out_ = weight.shape(1);
  layer->in_ = weight.shape(2);
  layer->stride_ = stride;
  layer->transposed_ = true;
  layer->activated_ = activated;
  const std::vector<float> values = numbers(weight);
  const int outputs = layer->kernel_ * layer->out_;
  layer->packed_.resize(compute()->packed_floats(outputs, layer->in_));
  compute()->pack(values.data(), outputs, layer->in_, layer->packed_.data());
  layer->bias_.assign(layer->out_, 0.0f);
  if (bias) layer->bias_ = numbers(*bias);
  require(layer->bias_.size() == size_t(layer->out_), "bias is [out]");
  return layer;
}

int Convolution::state_floats() const {
  return transposed_ ? stride_ * out_ : ((kernel_ - 1) * dilation_ + 1 - stride_) * in_;
}

int Convolution::steps_out(int steps) const {
  if (transposed_) return steps * stride_;
  return steps % stride_ == 0 ? steps / stride_ : 0;
}

void Convolution::run(
    const float* x, int width, int steps, const float* before, float* after, size_t stride, float* y) const {
  transposed_ ? run_transposed(x, width, steps, before, after, stride, y)
              : run_causal(x, width, steps, before, after, stride, y);
}

void Convolution::run_causal(
    const float* x, int width, int steps, const float* before, float* after, size_t stride, float* y) const {
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  const size_t past = size_t(state_floats()), fresh = size_t(steps) * in_, lane = past + fresh;
  float* padded = scratch.take(lane * width);
  for (int row = 0; row < width; row++) {
    float* begin = padded + row * lane;
    std::memcpy(begin, before + row * stride, past * sizeof(float));
    if (activated_) {
      compute()->elu(x + row * fresh, fresh, begin + past);
    } else {
      std::memcpy(begin + past, x + row * fresh, fresh * sizeof(float));
    }
    std::memcpy(after + row * stride, begin + fresh, past * sizeof(float));
  }
  const int produced = steps_out(steps), count = width * produced;
  const float** rows = pointers<const float*>(scratch, count);
  float** outputs = pointers<float*>(scratch, count);
  for (int i = 0; i < count; i++) {
    rows[i] = padded + (i / produced) * lane + size_t(i % produced) * stride_ * in_;
    outputs[i] = y + size_t(i) * out_;
  }
  ConvRows conv = {};
  conv.rows = rows;
  conv.outputs = outputs;
  conv.packed = packed_.data();
  conv.bias = bias_.empty() ? nullptr : bias_.data();
  conv.count = count;
  // Without dilation the taps of an output are adjacent in memory, and count as one.
  conv.taps = dilation_ == 1 ? 1 : kernel_;
  conv.tap_stride = dilation_ * in_;
  conv.inner = dilation_ == 1 ? kernel_ * in_ : in_;
  conv.out = out_;
  convolve(*compute_, conv);
  scratch.release(mark);
}

void Convolution::run_transposed(
    const float* x, int width, int steps, const float* before, float* after, size_t stride, float* y) const {
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  const int count = width * steps;
  const size_t half = size_t(stride_) * out_;
  const float* input = x;
  if (activated_) {
    float* activated = scratch.take(size_t(count) * in_);
    compute()->elu(x, size_t(count) * in_, activated);
    input = activated;
  }
  float* spread = scratch.take(size_t(count) * 2 * half);
  const float** rows = pointers<const float*>(scratch, count);
  float** outputs = pointers<float*>(scratch, count);
  for (int i = 0; i < count; i++) {
    rows[i] = input + size_t(i) * in_;
    outputs[i] = spread + size_t(i) * 2 * half;
  }
  ConvRows conv = {};
  conv.rows = rows;
  conv.outputs = outputs;
  conv.packed = packed_.data();
  conv.count = count;
  conv.taps = 1;
  conv.inner = in_;
  conv.out = kernel_ * out_;
  convolve(*compute_, conv);
  for (int row = 0; row < width; row++) {
    const float* pending = before + row * stride;
    for (int step = 0; step < steps; step++) {
      const float* both = spread + (size_t(row) * steps + step) * 2 * half;
      float* out = y + (size_t(row) * steps + step) * half;
      std::memcpy(out, both, half * sizeof(float));
      compute()->add_scaled(out, pending, nullptr, half);
      for (int i = 0; i < stride_; i++) compute()->add_scaled(out + size_t(i) * out_, bias_.data(), nullptr, out_);
      pending = both + half;
    }
    std::memmove(after + row * stride, pending, half * sizeof(float));
  }
  scratch.release(mark);
}

Seanet::Seanet(std::vector<ConvolutionPtr> layers, std::vector<int> residual_of)
    : layers_(std::move(layers)), residual_of_(std::move(residual_of)) {
  require(!layers_.empty() && residual_of_.size() == layers_.size(), "one entry for each layer");
  require(layers_.size() <= MOST_LAYERS, "too many layers");
  for (size_t i = 0; i < layers_.size(); i++) {
    require(layers_[i] != nullptr, "a layer is missing");
    require(i == 0 || layers_[i]->in() == layers_[i - 1]->out(), "a layer has another width than the one before it");
    const int from = residual_of_[i];
    require(from == -1 || (from >= 0 && from == int(i) - 1), "a residual block has two layers");
    require(from < 0 || layers_[from]->in() == layers_[i]->out(), "a residual has another width than its block");
    state_floats_ += layers_[i]->state_floats();
  }
}

int Seanet::steps_out(int steps) const {
  for (const auto& layer : layers_) steps = layer->steps_out(steps);
  return steps;
}

void Seanet::run(const float* x, int width, int steps, const float* before, float* after, float* y) const {
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  // Every layer's output has memory of its own, so that a residual still finds the input of its block.
  size_t widest = 0;
  std::vector<int> lengths{steps};
  for (const auto& layer : layers_) {
    lengths.push_back(layer->steps_out(lengths.back()));
    widest = std::max(widest, size_t(width) * lengths.back() * layer->out());
  }
  constexpr int BUFFERS = 3;
  float* buffers[BUFFERS];
  for (auto& each : buffers) each = scratch.take(widest);
  const float* inputs[MOST_LAYERS + 1];
  inputs[0] = x;
  size_t offset = 0;
  for (size_t i = 0; i < layers_.size(); i++) {
    const Convolution& layer = *layers_[i];
    // A residual block has two layers: three buffers in turn never overwrite what it still needs.
    float* out = i + 1 == layers_.size() ? y : buffers[i % BUFFERS];
    layer.run(inputs[i], width, lengths[i], before + offset, after + offset, size_t(state_floats_), out);
    if (residual_of_[i] >= 0) {
      compute()->add_scaled(
          out, inputs[residual_of_[i]], nullptr, size_t(width) * lengths[i + 1] * layer.out());
    }
    offset += size_t(layer.state_floats());
    inputs[i + 1] = out;
  }
  scratch.release(mark);
}

Quantizer::Quantizer(MatrixPtr input_proj, std::vector<MatrixPtr> codebooks)
    : input_proj_(std::move(input_proj)), codebooks_(std::move(codebooks)) {
  require(input_proj_ != nullptr && !codebooks_.empty(), "a quantizer has levels");
  for (const auto& each : codebooks_) {
    require(each != nullptr && each->in() == input_proj_->out(), "a codebook has another width than its input");
    std::vector<float> centroid(each->in()), halves(each->out());
    for (int row = 0; row < each->out(); row++) {
      compute()->widen(each->view(), row, centroid.data());
      for (const float value : centroid) halves[row] += value * value / 2;
    }
    half_squares_.push_back(std::move(halves));
  }
}

void Quantizer::encode(const float* x, int count, int32_t* codes, int stride) const {
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  const int dim = input_proj_->out();
  float* residual = scratch.take(size_t(count) * dim);
  float* centroid = scratch.take(dim);
  size_t most = 0;
  for (const auto& each : codebooks_) most = std::max(most, size_t(each->out()));
  float* products = scratch.take(size_t(count) * most);
  product(*input_proj_, x, count, residual);
  for (size_t level = 0; level < codebooks_.size(); level++) {
    const Matrix& codebook = *codebooks_[level];
    // |x − c|² = |x|² − 2 (x·c − |c|²/2), and |x|² is the same for all centroids.
    product(codebook, residual, count, products);
    for (int row = 0; row < count; row++) {
      const float* scores = products + size_t(row) * codebook.out();
      int nearest = 0;
      float least = half_squares_[level][0] - scores[0];
      for (int i = 1; i < codebook.out(); i++) {
        const float distance = half_squares_[level][i] - scores[i];
        if (distance < least) {
          least = distance;
          nearest = i;
        }
      }
      codes[size_t(row) * stride + level] = nearest;
      compute()->widen(codebook.view(), nearest, centroid);
      for (int i = 0; i < dim; i++) residual[size_t(row) * dim + i] -= centroid[i];
    }
  }
  scratch.release(mark);
}

mx::array quantize(std::vector<std::shared_ptr<const Quantizer>> quantizers, const mx::array& x) {
  require(!quantizers.empty(), "there are no quantizers");
  require(x.dtype() == mx::float32 && x.ndim() == 2 && x.shape(0) > 0, "x is [count, D] float32");
  int levels = 0;
  for (const auto& each : quantizers) {
    require(each != nullptr && each->in() == x.shape(1), "x has another width than the quantizers");
    levels += each->levels();
  }
  auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array(
      mx::Shape{x.shape(0), levels}, mx::int32, std::make_shared<Quantize>(stream, std::move(quantizers)), {x});
}

std::vector<mx::array> seanet_step(std::shared_ptr<const Seanet> seanet, const mx::array& x, const mx::array& state) {
  require(x.dtype() == mx::float32 && x.ndim() == 3 && x.shape(2) == seanet->in(), "x is [w, steps, in] float32");
  require(state.dtype() == mx::float32 && state.ndim() == 2, "the state is [w, floats] float32");
  require(state.shape(0) == x.shape(0) && state.shape(1) == seanet->state_floats(), "the state is another network's");
  const int steps = seanet->steps_out(x.shape(1));
  require(x.shape(0) > 0 && steps > 0, "the input is not whole frames");
  const mx::Shape shape{x.shape(0), steps, seanet->out()};
  auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array::make_arrays(
      {shape, state.shape()}, {mx::float32, mx::float32},
      std::make_shared<SeanetStep>(stream, std::move(seanet)), {x, state});
}

}  // namespace packet_voice
