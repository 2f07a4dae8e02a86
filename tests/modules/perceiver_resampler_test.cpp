// The Perceiver Resampler in OpenFlamingo's form, with and without positions of frames and media, and in IDEFICS's, against their own code
// (tests/golden/gated/make.py).
#include "support/catch.hpp"
#include "support/near.hpp"
#include "support/paths.hpp"
#include "support/random_weights.hpp"

#include <chiasm/io/safetensors.hpp>
#include <chiasm/modules/perceiver_resampler.hpp>

using namespace chiasm;

namespace {

const PerceiverResamplerConfig small{.width = 20, .latents = 5, .depth = 2, .heads = 3, .head_dim = 8};

}  // namespace

TEST_CASE("latents read pictures as OpenFlamingo's do") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const PerceiverResampler resample(w / "flamingo" / "perceiver", small);
  Context ctx;
  const Tensor x = w.get("flamingo.perceiver.x").to_f32(), y = resample(ctx, x);
  CHECK(largest_difference(y, w.get("flamingo.perceiver.y")) < 1e-5);
  SECTION("one picture at a time, or all of them") {
    for (std::size_t n = 0; n < 4; ++n) CHECK(largest_difference(resample(ctx, x.slice(n, 1)), y.slice(n, 1)) < 1e-5);
  }
  SECTION("one frame each") {
    CHECK(largest_difference(resample(ctx, x.view().reshape(Shape{4, 1, 9, 20})), y) == 0);
  }
  SECTION("rows that lie apart") {
    Tensor wide(Shape{4, 9, 32});
    for (std::size_t i = 0; i < x.rows(); ++i) std::memcpy(wide.row(i) + 3, x.row(i), 20 * sizeof(float));
    CHECK(largest_difference(resample(ctx, wide.view().column_slice(3, 20)), y) == 0);
  }
  SECTION("shapes that do not fit") {
    CHECK_THROWS_AS(resample(ctx, x.view().reshape(Shape{36, 20})), ShapeError);
    CHECK_THROWS_AS(resample(ctx, Tensor(Shape{1, 9, 21})), ShapeError);
  }
}

TEST_CASE("frames and media have positions") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  PerceiverResamplerConfig config = small;
  config.max_frames = 3, config.max_media = 4;
  const PerceiverResampler resample(w / "flamingo" / "video", config);
  Context ctx;
  const Tensor x = w.get("flamingo.video.x").to_f32();  // (3, 2, 7, 20)
  CHECK(largest_difference(resample(ctx, x), w.get("flamingo.video.y")) < 1e-5);
  CHECK_THROWS_AS(resample(ctx, Tensor(Shape{1, 4, 7, 20})), ShapeError);  // frames
  CHECK_THROWS_AS(resample(ctx, Tensor(Shape{5, 1, 7, 20})), ShapeError);  // media
  CHECK_NOTHROW(resample(ctx, Tensor(Shape{4, 3, 7, 20})));
}

TEST_CASE("latents read pictures as IDEFICS's do") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  Context ctx;
  for (const std::string name : {"plain", "normed"}) {
    INFO(name);
    PerceiverResamplerConfig config = small;
    config.hidden_act = Activation::relu;
    config.qk_norm = name == "normed";
    const Weights node = w / "idefics" / name;
    const PerceiverResampler resample(node / "perceiver", config);
    CHECK(largest_difference(resample(ctx, node.get("perceiver.x").to_f32()), node.get("perceiver.y")) < 1e-5);
  }
}

TEST_CASE("a resampler's weights are checked by name and shape") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const auto refused = [&](const std::string& node, const PerceiverResamplerConfig& config) -> std::string {
    try {
      const PerceiverResampler resample(w / node, config);
    } catch (const WeightError& error) {
      return error.tensor;
    }
    return "none";
  };
  PerceiverResamplerConfig config = small;
  config.depth = 3;
  CHECK(refused("flamingo.perceiver", config) == "flamingo.perceiver.layers.2.0.norm_media.weight");
  config = small;
  config.max_frames = 3;
  CHECK(refused("flamingo.perceiver", config) == "flamingo.perceiver.frame_embs");
  config = small;
  config.qk_norm = true;
  CHECK(refused("idefics.plain.perceiver", config) == "idefics.plain.perceiver.blocks.0.0.q_layer_norm.weight");
  config = small;
  config.latents = 6;
  CHECK(refused("flamingo.perceiver", config) == "flamingo.perceiver.latents");
}

TEST_CASE("a resampler says where it looks") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const PerceiverResampler resample(w / "flamingo" / "perceiver", small);
  std::vector<std::size_t> layers;
  ContextOptions options;
  options.on_attention = [&](const AttentionWeights& attention) {
    CHECK(attention.name == "resampler");
    CHECK(attention.weights.shape() == (Shape{3, 5, 14}));  // patches, then latents
    layers.push_back(attention.layer);
  };
  Context ctx(options);
  (void)resample(ctx, w.get("flamingo.perceiver.x").to_f32().slice(0, 2));
  CHECK(layers == std::vector<std::size_t>{0, 0, 1, 1});
}
