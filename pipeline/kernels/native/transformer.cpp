#include "transformer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
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

constexpr int64_t TASK_NUMBERS = 16 * 1024;  // of keys and values, below which attention takes one thread

void require_matrix(const MatrixPtr& matrix, int out, int in) {
  require(matrix != nullptr && matrix->in() == in, "a weight has another width than its input");
  require(out < 0 || matrix->out() == out, "a weight has another number of outputs than its layer");
}

// A copy of the input ring for an output that could not take over its memory.
struct RingCopy {
  mx::array from;
  mx::array to;
};

template <class T>
void copy_ring_of(const RingCopy& copy) {
  const T* from = copy.from.data<T>();
  T* to = const_cast<mx::array&>(copy.to).data<T>();
  if (copy.from.flags().row_contiguous) {
    std::memcpy(to, from, copy.from.nbytes());
    return;
  }
  const auto strides = copy.from.strides();
  const auto shape = copy.from.shape();
  for (int64_t a = 0; a < shape[0]; a++) {
    for (int64_t b = 0; b < shape[1]; b++) {
      for (int64_t c = 0; c < shape[2]; c++) {
        const T* row = from + a * strides[0] + b * strides[1] + c * strides[2];
        for (int64_t d = 0; d < shape[3]; d++) *to++ = row[d * strides[3]];
      }
    }
  }
}

void copy_ring(const RingCopy& copy) {
  copy.from.itemsize() == 2 ? copy_ring_of<uint16_t>(copy) : copy_ring_of<float>(copy);
}

class TransformerStep : public mx::Primitive {
 public:
  TransformerStep(mx::Stream stream, TransformerPtr transformer, Transformer::Places places)
      : Primitive(stream),
        transformer_(std::move(transformer)),
        places_(std::make_shared<const Transformer::Places>(std::move(places))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    release_siblings(inputs, outputs);
    outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
    std::vector<RingCopy> copies;
    for (size_t i = 1; i < inputs.size(); i++) {
      if (inputs[i].is_donatable() && inputs[i].flags().row_contiguous) {
        outputs[i].copy_shared_buffer(inputs[i]);
      } else {
        outputs[i].set_data(mx::allocator::malloc(outputs[i].nbytes()));
        copies.push_back({mx::array::unsafe_weak_copy(inputs[i]), mx::array::unsafe_weak_copy(outputs[i])});
      }
    }
    std::vector<Transformer::Rings> rings;
    const int layers = transformer_->layers();
    const Storage storage = outputs[1].dtype() == mx::bfloat16 ? Storage::BF16 : Storage::F32;
    for (int layer = 0; layer < layers; layer++) {
      rings.push_back({outputs[1 + layer].data<void>(), outputs[1 + layers + layer].data<void>(), storage});
    }
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([transformer = transformer_, places = places_, rings = std::move(rings),
                      copies = std::move(copies), x = mx::array::unsafe_weak_copy(inputs[0]),
                      y = mx::array::unsafe_weak_copy(outputs[0])]() mutable {
      Scratch::here().reset();
      for (const auto& each : copies) copy_ring(each);
      copy_rows(x, y.data<float>());
      transformer->run(y.data<float>(), *places, rings);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("packet_voice::TransformerStep runs on a CPU only");
  }

  DEFINE_NAME(PacketVoiceTransformerStep)

 private:
  TransformerPtr transformer_;
  std::shared_ptr<const Transformer::Places> places_;
};

// Numbers in the order of the floats that they stand for, both ways.
int32_t key_of(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}

float float_of(int32_t key) { return std::bit_cast<float>(key < 0 ? key ^ 0x7fffffff : key); }

// The smallest of the `top_k` greatest of `logits`, all of which are numbers: the largest bound that so many reach.
// Counting is so fast that the 32 bits of a float are found one after the other.
float limit(const float* logits, int count, int top_k, float greatest) {
  const float infinity = std::numeric_limits<float>::infinity();
  if (top_k <= 0 || top_k >= count) return -infinity;
  int64_t reached = key_of(-infinity), missed = int64_t(key_of(greatest)) + 1;
  while (missed - reached > 1) {
    const int64_t middle = (reached + missed) >> 1;
    (compute()->at_least(logits, count, float_of(int32_t(middle))) >= top_k ? reached : missed) = middle;
  }
  return float_of(int32_t(reached));
}

// One token, as `pipeline.models.sampling` defines it; `scratch` holds twice as many numbers as `logits`.
int draw(const float* logits, int count, float temperature, int top_k, float uniform, float* scratch) {
  const Compute& c = *compute();
  const float greatest = c.greatest(logits, count);
  // What is not a number has no order.
  const bool ordered = c.at_least(logits, count, -std::numeric_limits<float>::infinity()) == count;
  const int best = int(std::find(logits, logits + count, greatest) - logits) % count;
  if (!(temperature > 0) || !ordered) return best;
  const float threshold = limit(logits, count, top_k, greatest);
  float* weights = scratch;
  int* tokens = reinterpret_cast<int*>(scratch + count);
  int kept = 0;
  for (int i = 0; i < count; i++) {
    tokens[kept] = i;
    weights[kept] = logits[i];
    kept += logits[i] >= threshold;
  }
  for (int i = 0; i < kept; i++) weights[i] = (weights[i] - greatest) / temperature;
  c.exponential(weights, kept);
  float total = 0;
  for (int i = 0; i < kept; i++) total += weights[i];
  const float target = uniform * total;
  float cumulative = 0;
  int last = best;
  for (int i = 0; i < kept; i++) {
    if (!(weights[i] > 0)) continue;
    cumulative += weights[i];
    last = tokens[i];
    if (cumulative > target) break;
  }
  return last;
}

class SampleTokens : public mx::Primitive {
 public:
  SampleTokens(mx::Stream stream, std::shared_ptr<const Depformer> depformer, int codebooks, TokenSampling sampling)
      : Primitive(stream),
        depformer_(std::move(depformer)),
        codebooks_(codebooks),
        sampling_(std::make_shared<const TokenSampling>(std::move(sampling))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& tokens = outputs[0];
    tokens.set_data(mx::allocator::malloc(tokens.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([depformer = depformer_, codebooks = codebooks_, sampling = sampling_,
                      x = mx::array::unsafe_weak_copy(inputs[0]),
                      tokens = mx::array::unsafe_weak_copy(tokens)]() mutable {
      Scratch::here().reset();
      Step(*depformer, codebooks, *sampling, x, tokens.data<int32_t>()).run();
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("packet_voice::SampleTokens runs on a CPU only");
  }

  DEFINE_NAME(PacketVoiceSampleTokens)

 private:
  // The computation of one step; its memory is the thread's scratch.
  class Step {
   public:
    Step(const Depformer& depformer, int codebooks, const TokenSampling& sampling, const mx::array& x, int32_t* tokens)
        : depformer_(depformer), sampling_(sampling), rows_(x.shape(0)), width_(int(sampling.penalties.size())),
          codebooks_(codebooks), tokens_(tokens) {
      Scratch& scratch = Scratch::here();
      context_ = scratch.take(x.size());
      copy_rows(x, context_);
      logits_ = scratch.take(size_t(rows_) * depformer.most_logits);
      drawn_ = scratch.take(2 * size_t(depformer.most_logits));
    }

    void run() {
      sample_text();
      if (codebooks_ > 0) sample_codes();
    }

   private:
    int token(int row, int column) const { return tokens_[(row % width_) * (1 + codebooks_) + column]; }

    void sample_text() {
      const TextHead& head = depformer_.text;
      for (int row = 0; row < rows_; row++) {
        float* x = context_ + size_t(row) * head.norm.dim;
        head.norm(x, x);
      }
      product(*head.linear, context_, rows_, logits_, head.bias ? head.bias->data() : nullptr);
      const int count = head.linear->out();
      apply_cfg(count);
      for (int row = 0; row < width_; row++) {
        float* logits = logits_ + size_t(row) * count;
        if (const float penalty = sampling_.penalties[row]; penalty != 1) {
          for (const int each : sampling_.repeated[row]) {
            logits[each] = logits[each] > 0 ? logits[each] / penalty : logits[each] * penalty;
          }
        }
        if (head.padding < count) logits[head.padding] += sampling_.padding_bias[row];
        sample(sampling_.text, row, 0, logits, count);
      }
    }

    void sample_codes() {
      const Transformer& transformer = *depformer_.transformer;
      Scratch& scratch = Scratch::here();
      const int dim = transformer.dim();
      const size_t ring = size_t(rows_) * transformer.kv_heads() * transformer.context() * transformer.head_dim();
      Transformer::Places places;
      places.steps = 1;
      for (int row = 0; row < rows_; row++) places.lanes.push_back(row);
      std::vector<Transformer::Rings> rings;
      for (int layer = 0; layer < transformer.layers(); layer++) {
        float* keys = scratch.take(ring);
        rings.push_back({keys, scratch.take(ring), Storage::F32});
      }
      float* h = scratch.take(size_t(rows_) * dim);
      float* embedded = scratch.take(size_t(rows_) * depformer_.widest);
      float* projected = scratch.take(size_t(rows_) * dim);
      float* context = context_;
      if (depformer_.shared != nullptr) {
        context = scratch.take(size_t(rows_) * dim);
        product(*depformer_.shared, context_, rows_, context);
      }
      for (int codebook = 0; codebook < codebooks_; codebook++) {
        const Codebook& book = depformer_.codebooks[codebook];
        if (book.input != nullptr) {
          product(*book.input, context, rows_, h);
        } else {
          std::memcpy(h, context, size_t(rows_) * dim * sizeof(float));
        }
        const int narrow = book.embedding->in();
        for (int row = 0; row < rows_; row++) {  // with guidance both rows of a session follow the same token
          const int index = std::clamp(token(row, codebook), 0, book.embedding->out() - 1);
          compute()->widen(book.embedding->view(), index, embedded + size_t(row) * narrow);
        }
        const float* previous = embedded;
        if (book.projection != nullptr) {
          product(*book.projection, embedded, rows_, projected);
          previous = projected;
        }
        compute()->add_scaled(h, previous, nullptr, size_t(rows_) * dim);
        places.weight_set = book.weight_set;
        places.starts.assign(rows_, codebook);
        places.slots.assign(rows_, codebook);
        transformer.run(h, places, rings);
        const float* last = h;
        if (book.norm) {
          for (int row = 0; row < rows_; row++) (*book.norm)(h + size_t(row) * dim, projected + size_t(row) * dim);
          last = projected;
        }
        const int card = book.head->out();
        product(*book.head, last, rows_, logits_, book.head_bias ? book.head_bias->data() : nullptr);
        apply_cfg(card);
        for (int row = 0; row < width_; row++) {
          sample(sampling_.codes, row, 1 + codebook, logits_ + size_t(row) * card, card);
        }
      }
    }

    // The first half of the rows of logits, moved away from the second half.
    void apply_cfg(int count) {
      if (sampling_.cfg_coef == 1) return;
      const float* null = logits_ + size_t(width_) * count;
      for (size_t i = 0; i < size_t(width_) * count; i++) {
        logits_[i] = null[i] + (logits_[i] - null[i]) * sampling_.cfg_coef;
      }
    }

    void sample(const Draw& how, int row, int column, const float* logits, int count) {
      const size_t at = size_t(row) * (1 + codebooks_) + column;
      const float uniform = sampling_.uniforms.empty() ? 0 : sampling_.uniforms[at];
      tokens_[at] = draw(logits, count, how.temperatures[row], how.top_k[row], uniform, drawn_);
    }

    const Depformer& depformer_;
    const TokenSampling& sampling_;
    const int rows_, width_, codebooks_;
    int32_t* tokens_;  // [w, 1 + codebooks]
    float* context_;  // the transformer's output, and then normed
    float* logits_;
    float* drawn_;
  };

  std::shared_ptr<const Depformer> depformer_;
  int codebooks_;
  std::shared_ptr<const TokenSampling> sampling_;
};

}  // namespace

Transformer::Transformer(
    std::vector<TransformerLayer> layers, int dim, int heads, int kv_heads, int context, bool gated, Rope rope,
    double max_period)
    : layers_(std::move(layers)), dim_(dim), heads_(heads), kv_heads_(kv_heads), context_(context), gated_(gated),
      rope_(rope), widest_(0) {
  require(!layers_.empty(), "a transformer has layers");
  require(heads > 0 && kv_heads > 0 && dim % heads == 0 && heads % kv_heads == 0, "heads do not divide the width");
  require(context > 0, "the context is empty");
  require(rope == Rope::None || head_dim() % 2 == 0, "a rotary embedding needs an even head width");
  const int projected = (heads + 2 * kv_heads) * head_dim();
  widest_ = std::max(projected, dim);
  for (const auto& layer : layers_) {
    require(layer.norm1.dim == dim && layer.norm2.dim == dim, "a norm has another width than the model");
    require(!layer.in_projs.empty() && layer.in_projs.size() == layer.out_projs.size(), "sets of projections differ");
    require(!layer.feed_in.empty() && layer.feed_in.size() == layer.feed_out.size(), "sets of feed-forward weights differ");
    for (const auto& each : layer.in_projs) require_matrix(each, projected, dim);
    for (const auto& each : layer.out_projs) require_matrix(each, dim, dim);
    for (size_t i = 0; i < layer.feed_in.size(); i++) {
      require_matrix(layer.feed_in[i], -1, dim);
      require_matrix(layer.feed_out[i], dim, gated ? layer.feed_in[i]->out() / 2 : layer.feed_in[i]->out());
      require(!gated || layer.feed_in[i]->out() % 2 == 0, "a gated layer has an even width");
      widest_ = std::max(widest_, layer.feed_in[i]->out());
    }
  }
  for (int i = 0; i < head_dim() / 2; i++) frequencies_.push_back(std::pow(max_period, -2.0 * i / head_dim()));
}

void Transformer::check(const Places& places, int rows) const {
  const size_t width = places.lanes.size();
  require(width > 0 && places.steps > 0 && places.steps <= context_, "a step has positions");
  require(places.starts.size() == width && places.slots.size() == width * places.steps, "places disagree");
  for (const int lane : places.lanes) require(lane >= 0 && lane < rows, "there is no such row");
  for (const int slot : places.slots) require(slot >= 0 && slot < context_, "there is no such slot");
  for (const int64_t start : places.starts) require(start >= 0, "positions are not negative");
  require(places.weight_set >= 0, "there is no such set of weights");
  for (const auto& layer : layers_) {
    const size_t projections = layer.in_projs.size(), feeds = layer.feed_in.size();
    require(projections == 1 || size_t(places.weight_set) < projections, "there is no such set of weights");
    require(feeds == 1 || size_t(places.weight_set) < feeds, "there is no such set of weights");
  }
}

void Transformer::run(float* x, const Places& places, const std::vector<Rings>& rings) const {
  const Compute& c = *compute();
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  const int width = int(places.lanes.size()), steps = places.steps, rows = width * steps;
  const int half = head_dim() / 2, heads_out = heads_ + 2 * kv_heads_;
  float* normed = scratch.take(size_t(rows) * dim_);
  float* wide = scratch.take(size_t(rows) * widest_);
  float* narrow = scratch.take(size_t(rows) * widest_);
  float* cosines = scratch.take(size_t(rows) * half);
  float* sines = scratch.take(size_t(rows) * half);
  if (rope_ != Rope::None) {
    for (int row = 0; row < rows; row++) {
      const double position = double(places.starts[row / steps] + row % steps);
      for (int i = 0; i < half; i++) {
        cosines[row * half + i] = float(std::cos(position * frequencies_[i]));
        sines[row * half + i] = float(std::sin(position * frequencies_[i]));
      }
    }
  }
  const auto set = [&](const std::vector<MatrixPtr>& sets) -> const Matrix& {
    return *sets[sets.size() == 1 ? 0 : places.weight_set];
  };
  for (size_t l = 0; l < layers_.size(); l++) {
    const TransformerLayer& layer = layers_[l];
    for (int row = 0; row < rows; row++) layer.norm1(x + size_t(row) * dim_, normed + size_t(row) * dim_);
    product(set(layer.in_projs), normed, rows, wide);
    for (int row = 0; row < rows; row++) {
      float* packed = wide + size_t(row) * heads_out * head_dim();
      for (int head = 0; head < heads_ + kv_heads_; head++) {
        c.rotate(packed + head * head_dim(), cosines + row * half, sines + row * half, head_dim(), rope_);
      }
      const int lane = places.lanes[row / steps], slot = places.slots[row];
      const float* keys = packed + size_t(heads_) * head_dim();
      for (int head = 0; head < kv_heads_; head++) {
        const size_t at = ((size_t(lane) * kv_heads_ + head) * context_ + slot) * head_dim();
        write(rings[l].keys, rings[l].storage, at, keys + size_t(head) * head_dim());
        write(rings[l].values, rings[l].storage, at, keys + size_t(kv_heads_ + head) * head_dim());
      }
    }
    attend(wide, places, rings[l], narrow);
    product(set(layer.out_projs), narrow, rows, normed);
    for (int row = 0; row < rows; row++) {
      c.add_scaled(
          x + size_t(row) * dim_, normed + size_t(row) * dim_, layer.scale1 ? layer.scale1->data() : nullptr, dim_);
      layer.norm2(x + size_t(row) * dim_, normed + size_t(row) * dim_);
    }
    const Matrix& feed_in = set(layer.feed_in);
    product(feed_in, normed, rows, wide);
    const float* hidden = wide;
    if (gated_) {
      const int gates = feed_in.out() / 2;
      for (int row = 0; row < rows; row++) c.gate(wide + size_t(row) * 2 * gates, gates, narrow + size_t(row) * gates);
      hidden = narrow;
    } else {
      c.gelu(wide, rows * feed_in.out());
    }
    product(set(layer.feed_out), hidden, rows, normed);
    for (int row = 0; row < rows; row++) {
      c.add_scaled(
          x + size_t(row) * dim_, normed + size_t(row) * dim_, layer.scale2 ? layer.scale2->data() : nullptr, dim_);
    }
  }
  scratch.release(mark);
}

void Transformer::write(void* ring, Storage storage, size_t at, const float* head) const {
  if (storage == Storage::BF16) {
    compute()->narrow(head, head_dim(), static_cast<uint16_t*>(ring) + at);
  } else {
    std::memcpy(static_cast<float*>(ring) + at, head, head_dim() * sizeof(float));
  }
}

void Transformer::attend(const float* projected, const Places& places, const Rings& rings, float* attended) const {
  const Compute& c = *compute();
  Scratch& scratch = Scratch::here();
  const size_t mark = scratch.mark();
  const int width = int(places.lanes.size()), steps = places.steps, group = heads_ / kv_heads_;
  const int heads_out = heads_ + 2 * kv_heads_;
  int64_t numbers = 0;
  int most = 0;
  for (int row = 0; row < width; row++) {
    const int filled = int(std::min<int64_t>(places.starts[row] + steps, context_));
    most = std::max(most, filled);
    numbers += int64_t(2) * filled * head_dim() * heads_ * steps;
  }
  const int all = width * steps * heads_;
  const int tasks = numbers < TASK_NUMBERS ? 1 : std::min(all, threads() * 4);
  float* scores = scratch.take(size_t(tasks) * most);
  in_parallel(tasks, [&](int task) {
    for (int i = task * all / tasks; i < (task + 1) * all / tasks; i++) {
      const int row = i / heads_, head = i % heads_, batch = row / steps, step = row % steps;
      const size_t ring = (size_t(places.lanes[batch]) * kv_heads_ + head / group) * context_ * head_dim();
      const int filled = int(std::min<int64_t>(places.starts[batch] + steps, context_));
      AttentionHead one = {};
      one.query = projected + (size_t(row) * heads_out + head) * head_dim();
      const size_t bytes = rings.storage == Storage::BF16 ? 2 : 4;
      one.keys = static_cast<const char*>(rings.keys) + ring * bytes;
      one.values = static_cast<const char*>(rings.values) + ring * bytes;
      one.storage = rings.storage;
      one.scores = scores + size_t(task) * most;
      one.output = attended + (size_t(row) * heads_ + head) * head_dim();
      one.hidden = places.slots.data() + row + 1;  // those of the later positions of the same call
      one.hidden_count = steps - 1 - step;
      one.slots = filled;
      one.head_dim = head_dim();
      c.attend(one);
    }
  });
  scratch.release(mark);
}

mx::array empty_ring(const std::vector<int>& shape, bool half) {
  require(shape.size() == 4, "a ring is [rows, kv_heads, context, head_dim]");
  for (const int axis : shape) require(axis > 0, "a ring is not empty");
  mx::array ring(mx::Shape(shape.begin(), shape.end()), half ? mx::bfloat16 : mx::float32, nullptr, {});
  ring.set_data(mx::allocator::malloc(ring.nbytes()));
  ring.set_status(mx::array::Status::available);
  return ring;
}

std::vector<mx::array> transformer_step(
    TransformerPtr transformer, const mx::array& x, const std::vector<mx::array>& keys,
    const std::vector<mx::array>& values, Transformer::Places places) {
  const size_t layers = size_t(transformer->layers());
  require(keys.size() == layers && values.size() == layers, "one ring of keys and of values for each layer");
  const int rows = keys[0].ndim() == 4 ? keys[0].shape(0) : 0;
  transformer->check(places, rows);
  const mx::Shape ring{rows, transformer->kv_heads(), transformer->context(), transformer->head_dim()};
  const mx::Shape shape{int(places.lanes.size()) * places.steps, transformer->dim()};
  require(x.dtype() == mx::float32 && x.shape() == shape, "x is [width * steps, dim] float32");
  std::vector<mx::array> inputs{x};
  std::vector<mx::Shape> shapes{shape};
  const mx::Dtype stored = keys[0].dtype();
  require(stored == mx::float32 || stored == mx::bfloat16, "rings are float32 or bfloat16");
  for (const auto* rings : {&keys, &values}) {
    for (const auto& each : *rings) {
      require(each.dtype() == stored && each.shape() == ring, "rings are [rows, kv_heads, context, head_dim]");
      inputs.push_back(each);
      shapes.push_back(ring);
    }
  }
  std::vector<mx::Dtype> dtypes(1 + 2 * layers, stored);
  dtypes[0] = mx::float32;
  auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array::make_arrays(
      std::move(shapes), dtypes,
      std::make_shared<TransformerStep>(stream, std::move(transformer), std::move(places)), inputs);
}

Depformer::Depformer(TransformerPtr transformer, TextHead text, MatrixPtr shared, std::vector<Codebook> codebooks)
    : transformer(std::move(transformer)), text(std::move(text)), shared(std::move(shared)),
      codebooks(std::move(codebooks)) {
  require(this->transformer != nullptr && !this->codebooks.empty(), "a depth transformer has codebooks");
  require(int(this->codebooks.size()) <= this->transformer->context(), "more codebooks than positions");
  const int dim = this->transformer->dim(), wide = this->text.norm.dim;
  require_matrix(this->text.linear, -1, wide);
  require(this->text.padding >= 0, "tokens are not negative");
  most_logits = this->text.linear->out();
  const bool projects = this->codebooks[0].input != nullptr;
  if (this->shared != nullptr) require_matrix(this->shared, dim, wide);
  require(projects != (this->shared != nullptr), "the context is projected for each codebook, or for all of them");
  for (const auto& each : this->codebooks) {
    require_matrix(each.head, -1, dim);
    require((each.input != nullptr) == projects, "all codebooks project the context, or none");
    if (projects) require_matrix(each.input, dim, wide);
    require(each.embedding != nullptr, "a codebook has an embedding of the token before it");
    if (each.projection != nullptr) require_matrix(each.projection, dim, each.embedding->in());
    require(each.projection != nullptr || each.embedding->in() == dim, "an embedding has another width than the model");
    require(!each.norm || each.norm->dim == dim, "a norm has another width than the model");
    Transformer::Places places{{0}, {0}, {0}, 1, each.weight_set};
    this->transformer->check(places, 1);
    widest = std::max({widest, dim, each.embedding->in()});
    most_logits = std::max(most_logits, each.head->out());
  }
}

mx::array sample_tokens(
    std::shared_ptr<const Depformer> depformer, const mx::array& x, int codebooks, TokenSampling sampling) {
  require(codebooks >= 0 && codebooks <= int(depformer->codebooks.size()), "there are not so many codebooks");
  require(x.dtype() == mx::float32 && x.ndim() == 2 && x.shape(1) == depformer->text.norm.dim, "x is [rows, D] float32");
  const size_t width = sampling.penalties.size();
  require(width > 0 && size_t(x.shape(0)) == (sampling.cfg_coef == 1 ? width : 2 * width), "one row each, two with guidance");
  require(sampling.padding_bias.size() == width && sampling.repeated.size() == width, "one setting for each row");
  bool random = false;
  for (const Draw* each : {&sampling.text, &sampling.codes}) {
    require(each->temperatures.size() == width && each->top_k.size() == width, "one setting for each row");
    for (const float temperature : each->temperatures) random |= temperature > 0;
  }
  const size_t uniforms = sampling.uniforms.size();
  require(uniforms == width * (1 + codebooks) || (uniforms == 0 && !random), "one random number for each token");
  for (const auto& row : sampling.repeated) {
    for (const int each : row) require(each >= 0 && each < depformer->text.linear->out(), "there is no such text token");
  }
  auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array(
      mx::Shape{int(width), 1 + codebooks}, mx::int32,
      std::make_shared<SampleTokens>(stream, std::move(depformer), codebooks, std::move(sampling)), {x});
}

}  // namespace packet_voice
