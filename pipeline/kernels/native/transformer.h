// A step of a transformer: norms, projections, rotary embedding, attention over rings, feed-forward, residuals.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "matrix.h"

namespace packet_voice {

// One layer; in the depth transformer some weights come in several sets, of which a step uses one.
struct TransformerLayer {
  Norm norm1;
  Norm norm2;
  std::vector<MatrixPtr> in_projs;
  std::vector<MatrixPtr> out_projs;
  std::vector<MatrixPtr> feed_in;  // twice the hidden width where it is gated
  std::vector<MatrixPtr> feed_out;
  std::optional<Vector> scale1;
  std::optional<Vector> scale2;
};

class Transformer {
 public:
  Transformer(
      std::vector<TransformerLayer> layers, int dim, int heads, int kv_heads, int context, bool gated, Rope rope,
      double max_period);

  int dim() const { return dim_; }
  int layers() const { return int(layers_.size()); }
  int head_dim() const { return dim_ / heads_; }
  int kv_heads() const { return kv_heads_; }
  int context() const { return context_; }

  // Where the positions of one step go. `slots [width * steps]`.
  struct Places {
    std::vector<int> lanes;  // row of the rings, per row of the batch
    std::vector<int64_t> starts;  // first position, per row of the batch
    std::vector<int> slots;
    int steps;
    int weight_set;
  };

  // Keys and values of one layer, [rows, kv_heads, context, head_dim], stored as F32 or BF16.
  struct Rings {
    void* keys;
    void* values;
    Storage storage;
  };

  // Throws std::invalid_argument where `places` does not fit `rows` rows of rings.
  void check(const Places& places, int rows) const;

  // Advance `x [width * steps, dim]` in place.
  void run(float* x, const Places& places, const std::vector<Rings>& rings) const;

 private:
  void write(void* ring, Storage storage, size_t at, const float* head) const;
  void attend(const float* projected, const Places& places, const Rings& rings, float* attended) const;

  std::vector<TransformerLayer> layers_;
  int dim_, heads_, kv_heads_, context_;
  bool gated_;
  Rope rope_;
  std::vector<double> frequencies_;
  int widest_;  // numbers of the widest intermediate result of a row
};

using TransformerPtr = std::shared_ptr<const Transformer>;

// A ring that takes memory only as its slots are written; what is in it before is not defined.
mx::array empty_ring(const std::vector<int>& shape, bool half);

// An op: `x [width * steps, dim]` and the rings of all layers → the output, the new keys and the new values.
// Rings are float32 or bfloat16, all of them.
// The rings are written in place if nothing else refers to them.
std::vector<mx::array> transformer_step(
    TransformerPtr transformer, const mx::array& x, const std::vector<mx::array>& keys,
    const std::vector<mx::array>& values, Transformer::Places places);

// What the depth transformer has besides its layers, per codebook.
struct Codebook {
  int weight_set;
  MatrixPtr input;  // projects the context; null where one projection is `shared`
  MatrixPtr embedding;  // of the token before it
  MatrixPtr projection;  // of a low-rank embedding; or null
  std::optional<Norm> norm;
  MatrixPtr head;
  std::optional<Vector> head_bias;
};

// From the transformer's output to the text token, which the first codebook follows.
struct TextHead {
  Norm norm;
  MatrixPtr linear;
  std::optional<Vector> bias;
  int padding;  // the token that `TokenSampling::padding_bias` is added to
};

struct Depformer {
  TransformerPtr transformer;
  TextHead text;
  MatrixPtr shared;  // projects the context for all codebooks; null where each has an `input`
  std::vector<Codebook> codebooks;
  int widest = 0;  // numbers of an embedding
  int most_logits = 0;

  Depformer(TransformerPtr transformer, TextHead text, MatrixPtr shared, std::vector<Codebook> codebooks);
};

// How the tokens of each row are drawn. Temperature 0 takes the best one; `top_k` 0 is no limit.
struct Draw {
  std::vector<float> temperatures;
  std::vector<int> top_k;
};

struct TokenSampling {
  Draw text;
  Draw codes;
  std::vector<float> padding_bias;
  std::vector<float> penalties;  // of the text tokens in `repeated`; 1 is none
  std::vector<std::vector<int>> repeated;
  std::vector<float> uniforms;  // [w, 1 + codebooks], the text's first; empty where all rows are greedy
  float cfg_coef = 1;  // other than 1: the second half of the rows has the null conditions
};

// An op: the tokens of one step. The transformer's output `x [rows, D]` → text and codes `[w, 1 + codebooks]` int32.
// `rows` is w, or 2w with guidance.
mx::array sample_tokens(
    std::shared_ptr<const Depformer> depformer, const mx::array& x, int codebooks, TokenSampling sampling);

}  // namespace packet_voice
