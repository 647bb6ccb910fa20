// SEANet, the codec's convolutional encoder or decoder, with the past samples of its layers.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "matrix.h"
#include "pages.h"

namespace packet_voice {

// A causal convolution, or a transposed one, with the activation before it.
class Convolution {
 public:
  // weight [out, kernel, in]
  static std::shared_ptr<const Convolution> causal(
      const mx::array& weight, const std::optional<mx::array>& bias, int stride, int dilation, bool activated);
  // weight [2 * stride, out, in]; each step becomes `stride`
  static std::shared_ptr<const Convolution> transposed(
      const mx::array& weight, const std::optional<mx::array>& bias, int stride, bool activated);

  int in() const { return in_; }
  int out() const { return out_; }
  // Numbers that the layer keeps for each lane.
  int state_floats() const;
  // Steps of the output for `steps` of the input; 0 if they are not whole.
  int steps_out(int steps) const;
  // `x [width, steps, in]` → `y [width, steps_out, out]`. Row i's past is at `before + i * stride`.
  void run(const float* x, int width, int steps, const float* before, float* after, size_t stride, float* y) const;

 private:
  Convolution() = default;
  void run_causal(const float* x, int width, int steps, const float* before, float* after, size_t stride, float* y) const;
  void run_transposed(
      const float* x, int width, int steps, const float* before, float* after, size_t stride, float* y) const;

  const Compute* compute_ = nullptr;  // whose order the weights are packed in
  std::vector<float, LargePages<float>> packed_;
  std::vector<float> bias_;
  int in_ = 0, out_ = 0, kernel_ = 0, stride_ = 1, dilation_ = 1;
  bool transposed_ = false, activated_ = false;
};

using ConvolutionPtr = std::shared_ptr<const Convolution>;

class Seanet {
 public:
  // `residual_of[i]`: the layer before which the sum of layer i's output with that layer's input begins, or −1.
  Seanet(std::vector<ConvolutionPtr> layers, std::vector<int> residual_of);

  int in() const { return layers_.front()->in(); }
  int out() const { return layers_.back()->out(); }
  int state_floats() const { return state_floats_; }
  int steps_out(int steps) const;
  void run(const float* x, int width, int steps, const float* before, float* after, float* y) const;

 private:
  std::vector<ConvolutionPtr> layers_;
  std::vector<int> residual_of_;
  int state_floats_ = 0;
};

// The codec's residual quantizer: each level quantizes what the levels before it have left.
class Quantizer {
 public:
  // input_proj [d, D]; codebooks [bins, d]
  Quantizer(MatrixPtr input_proj, std::vector<MatrixPtr> codebooks);

  int in() const { return input_proj_->in(); }
  int levels() const { return int(codebooks_.size()); }
  // `x [count, D]` → `codes [count, levels]`, of which rows are `stride` apart.
  void encode(const float* x, int count, int32_t* codes, int stride) const;

 private:
  MatrixPtr input_proj_;
  std::vector<MatrixPtr> codebooks_;
  std::vector<std::vector<float>> half_squares_;  // |c|² / 2 of every centroid
};

// An op: `x [count, D]` → the codes of several quantizers side by side, `[count, K]` int32.
mx::array quantize(std::vector<std::shared_ptr<const Quantizer>> quantizers, const mx::array& x);

// An op: `x [w, steps, in]` and the state `[w, floats]` → `[w, steps_out, out]` and the new state.
std::vector<mx::array> seanet_step(std::shared_ptr<const Seanet> seanet, const mx::array& x, const mx::array& state);

}  // namespace packet_voice
