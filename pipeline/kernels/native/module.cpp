// The Python module. Every argument is checked here or in the constructors below it: a wrong shape raises.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dispatch.h"
#include "mapping.h"
#include "matrix.h"
#include "mlx/version.h"
#include "pool.h"
#include "seanet.h"
#include "transformer.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace packet_voice;

using MaybeArray = std::optional<mx::array>;

#define PV_TEXT_(x) #x
#define PV_TEXT(x) PV_TEXT_(x)

NB_MODULE(packet_voice_kernels, m) {
  nb::module_::import_("mlx.core");

  // That of the headers: `mx::version` is in the library that is loaded, whichever that is.
  m.attr("mlx_version") =
      PV_TEXT(MLX_VERSION_MAJOR) "." PV_TEXT(MLX_VERSION_MINOR) "." PV_TEXT(MLX_VERSION_PATCH);
  m.def("supported", &supported);
  m.def("choose", &choose, "name"_a);
  m.def("chosen", [] { return compute() == nullptr ? std::string() : std::string(compute()->name); });
  m.def("set_threads", &set_threads, "count"_a);
  m.def("set_turns", &set_turns, "path"_a);
  m.def("helped", &helped);

  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<mx::array>(), "weight"_a)
      .def(nb::init<mx::array, mx::array, mx::array, int, int>(), "words"_a, "scales"_a, "biases"_a, "bits"_a, "group"_a)
      .def_prop_ro("shape", [](const Matrix& self) { return nb::make_tuple(self.out(), self.in()); });

  m.def(
      "linear",
      [](const mx::array& x, std::shared_ptr<Matrix> matrix, const MaybeArray& bias) { return linear(x, matrix, bias); },
      "x"_a, "matrix"_a, "bias"_a.none() = nb::none());

  m.def(
      "embed",
      [](const std::vector<std::shared_ptr<Matrix>>& tables, const mx::array& tokens) {
        return embed(std::vector<MatrixPtr>(tables.begin(), tables.end()), tokens);
      },
      "tables"_a, "tokens"_a);

  nb::class_<Mapping>(m, "Mapping")
      .def(nb::init<const std::string&>(), "path"_a)
      .def(
          "tensor",
          [](std::shared_ptr<Mapping> self, size_t offset, const std::vector<int>& shape, const std::string& dtype) {
            return mapped(self, offset, shape, dtype);
          },
          "offset"_a, "shape"_a, "dtype"_a);

  m.def("lost_file", &lost_file);

  m.def("contiguous", &contiguous, "values"_a);

  nb::class_<Norm>(m, "Norm").def(
      nb::init<const mx::array&, const MaybeArray&, float>(), "weight"_a, "bias"_a.none(), "eps"_a);

  nb::class_<TransformerLayer>(m, "TransformerLayer")
      .def(
          "__init__",
          [](TransformerLayer* self, const Norm& norm1, const Norm& norm2,
             const std::vector<std::shared_ptr<Matrix>>& in_projs, const std::vector<std::shared_ptr<Matrix>>& out_projs,
             const std::vector<std::shared_ptr<Matrix>>& feed_in, const std::vector<std::shared_ptr<Matrix>>& feed_out,
             const MaybeArray& scale1, const MaybeArray& scale2) {
            const auto shared = [](const std::vector<std::shared_ptr<Matrix>>& list) {
              return std::vector<MatrixPtr>(list.begin(), list.end());
            };
            const auto vector = [&](const MaybeArray& values) {
              return values ? std::optional<Vector>(Vector(*values, norm1.dim)) : std::nullopt;
            };
            new (self) TransformerLayer{norm1, norm2, shared(in_projs), shared(out_projs), shared(feed_in),
                                        shared(feed_out), vector(scale1), vector(scale2)};
          },
          "norm1"_a, "norm2"_a, "in_projs"_a, "out_projs"_a, "feed_in"_a, "feed_out"_a, "scale1"_a.none(),
          "scale2"_a.none());

  nb::class_<Transformer>(m, "Transformer")
      .def(
          "__init__",
          [](Transformer* self, std::vector<TransformerLayer> layers, int dim, int heads, int kv_heads, int context,
             bool gated, const std::string& rope, double max_period) {
            Rope kind = Rope::None;
            if (rope == "interleaved") {
              kind = Rope::Interleaved;
            } else if (rope == "halves") {
              kind = Rope::Halves;
            } else {
              require(rope == "none", "rope is none, interleaved or halves");
            }
            new (self) Transformer(std::move(layers), dim, heads, kv_heads, context, gated, kind, max_period);
          },
          "layers"_a, "dim"_a, "heads"_a, "kv_heads"_a, "context"_a, "gated"_a, "rope"_a, "max_period"_a)
      .def(
          "step",
          [](std::shared_ptr<Transformer> self, const mx::array& x, const std::vector<mx::array>& keys,
             const std::vector<mx::array>& values, std::vector<int> lanes, std::vector<int64_t> starts,
             std::vector<int> slots, int steps) {
            return transformer_step(
                self, x, keys, values, {std::move(lanes), std::move(starts), std::move(slots), steps, 0});
          },
          "x"_a, "keys"_a, "values"_a, "lanes"_a, "starts"_a, "slots"_a, "steps"_a);

  m.def("empty_ring", &empty_ring, "shape"_a, "half"_a);

  nb::class_<Codebook>(m, "Codebook")
      .def(
          "__init__",
          [](Codebook* self, int weight_set, std::shared_ptr<Matrix> input, std::shared_ptr<Matrix> embedding,
             std::shared_ptr<Matrix> projection,
             const std::optional<Norm>& norm, std::shared_ptr<Matrix> head, const MaybeArray& head_bias) {
            require(head != nullptr, "a codebook has a head");
            new (self) Codebook{weight_set, input, embedding, projection, norm, head, std::nullopt};
            if (head_bias) self->head_bias.emplace(*head_bias, head->out());
          },
          "weight_set"_a, "input"_a.none(), "embedding"_a, "projection"_a.none(), "norm"_a.none(), "head"_a, "head_bias"_a.none());

  nb::class_<TextHead>(m, "TextHead")
      .def(
          "__init__",
          [](TextHead* self, const Norm& norm, std::shared_ptr<Matrix> linear, const MaybeArray& bias, int padding) {
            require(linear != nullptr, "a head has weights");
            new (self) TextHead{norm, linear, std::nullopt, padding};
            if (bias) self->bias.emplace(*bias, linear->out());
          },
          "norm"_a, "linear"_a, "bias"_a.none(), "padding"_a);

  nb::class_<Depformer>(m, "Depformer")
      .def(
          "__init__",
          [](Depformer* self, std::shared_ptr<Transformer> transformer, const TextHead& text,
             std::shared_ptr<Matrix> shared, std::vector<Codebook> codebooks) {
            new (self) Depformer(transformer, text, shared, std::move(codebooks));
          },
          "transformer"_a, "text"_a, "shared"_a.none(), "codebooks"_a)
      .def(
          "sample",
          [](std::shared_ptr<Depformer> self, const mx::array& x, int codebooks,
             std::vector<float> text_temperatures, std::vector<int> text_top_k, std::vector<float> padding_bias,
             std::vector<float> penalties, std::vector<std::vector<int>> repeated, std::vector<float> temperatures,
             std::vector<int> top_k, std::vector<float> uniforms, float cfg_coef) {
            return sample_tokens(
                self, x, codebooks,
                {{std::move(text_temperatures), std::move(text_top_k)},
                 {std::move(temperatures), std::move(top_k)},
                 std::move(padding_bias),
                 std::move(penalties),
                 std::move(repeated),
                 std::move(uniforms),
                 cfg_coef});
          },
          "x"_a, "codebooks"_a, "text_temperatures"_a, "text_top_k"_a, "padding_bias"_a, "penalties"_a, "repeated"_a,
          "temperatures"_a, "top_k"_a, "uniforms"_a, "cfg_coef"_a);

  nb::class_<Convolution>(m, "Convolution")
      .def_static(
          "causal",
          [](const mx::array& weight, const MaybeArray& bias, int stride, int dilation, bool activated) {
            return std::const_pointer_cast<Convolution>(Convolution::causal(weight, bias, stride, dilation, activated));
          },
          "weight"_a, "bias"_a.none(), "stride"_a, "dilation"_a, "activated"_a)
      .def_static(
          "transposed",
          [](const mx::array& weight, const MaybeArray& bias, int stride, bool activated) {
            return std::const_pointer_cast<Convolution>(Convolution::transposed(weight, bias, stride, activated));
          },
          "weight"_a, "bias"_a.none(), "stride"_a, "activated"_a)
      .def_prop_ro("state_floats", &Convolution::state_floats);

  nb::class_<Quantizer>(m, "Quantizer")
      .def(
          "__init__",
          [](Quantizer* self, std::shared_ptr<Matrix> input_proj, const std::vector<std::shared_ptr<Matrix>>& codebooks) {
            new (self) Quantizer(input_proj, std::vector<MatrixPtr>(codebooks.begin(), codebooks.end()));
          },
          "input_proj"_a, "codebooks"_a);

  m.def(
      "quantize",
      [](const std::vector<std::shared_ptr<Quantizer>>& quantizers, const mx::array& x) {
        return quantize({quantizers.begin(), quantizers.end()}, x);
      },
      "quantizers"_a, "x"_a);

  nb::class_<Seanet>(m, "Seanet")
      .def(
          "__init__",
          [](Seanet* self, const std::vector<std::shared_ptr<Convolution>>& layers, std::vector<int> residual_of) {
            new (self) Seanet(std::vector<ConvolutionPtr>(layers.begin(), layers.end()), std::move(residual_of));
          },
          "layers"_a, "residual_of"_a)
      .def_prop_ro("state_floats", &Seanet::state_floats)
      .def(
          "step",
          [](std::shared_ptr<Seanet> self, const mx::array& x, const mx::array& state) {
            return seanet_step(self, x, state);
          },
          "x"_a, "state"_a);
}
