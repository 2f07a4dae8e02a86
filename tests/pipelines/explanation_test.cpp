// Where answers come from: the rollout by hand, and the bundled models on the bundled pictures, whose objects' places are known.
#include "support/catch.hpp"
#include "support/paths.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

using namespace chiasm;

namespace {

struct Watched {
  const char* name;
  std::size_t layer, first_query, first_key;
  Shape shape;  // heads, queries, keys
  std::vector<float> weights;
};

AttentionRollout watch(const std::vector<Watched>& calls) {
  AttentionRollout rollout;
  for (const Watched& call : calls) rollout.watch({call.name, call.layer, View(call.weights.data(), call.shape), View(), call.first_query, call.first_key});
  return rollout;
}

void check(const std::vector<float>& have, const std::vector<double>& want) {
  REQUIRE(have.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    INFO(i);
    CHECK(static_cast<double>(have[i]) == Approx(want[i]).margin(1e-6));
  }
}

std::string bundled(const std::string& style) { return source_dir() + "/examples/models/shapes-" + style; }

}  // namespace

TEST_CASE("rollout: pictures that stand in the text") {
  // Text, two patches, text; two heads, of which one looks at the first key alone.
  const AttentionRollout rollout = watch({
      {"self_attn", 0, 0, 0, {2, 4, 4}, {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,  //
                                         1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0.75f, 0.25f, 0}},
      {"self_attn", 1, 0, 0, {1, 4, 4}, {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}},
      {"self_attn", 0, 4, 0, {1, 1, 5}, {0, 0, 0, 1, 0}},  // the next token looks at the last
      {"self_attn", 1, 4, 0, {1, 1, 5}, {0, 0, 0, 1, 0}},
  });
  PreparedPrompt::Picture picture;
  picture.begin = 1, picture.rows = 2;
  const PreparedPrompt::Picture pictures[] = {picture};
  // After the first layer the text has half of (3/8, 1/8): the mean over the heads. The second keeps that.
  check(rollout.heat(pictures, 3, 4)[0], {0.1875, 0.0625});
  // The next token took nothing in the first layer, in which the last had nothing yet, and half of that in the second.
  check(rollout.heat(pictures, 4, 5)[0], {0.09375, 0.03125});
  check(rollout.heat(pictures, 3, 5)[0], {0.28125, 0.09375});
  CHECK_THROWS_AS(rollout.heat(pictures, 4, 6), ArgumentError);
  CHECK_THROWS_AS(rollout.heat(pictures, 3, 3), ArgumentError);
  CHECK_THROWS_AS(AttentionRollout().heat(pictures, 0, 1), ArgumentError);
}

TEST_CASE("rollout: a resampler, and text that looks at its latents") {
  // Two pictures of two states, one latent each; the text's rows 1 and 2 see the first, row 3 the second.
  const AttentionRollout rollout = watch({
      {"resampler", 0, 0, 0, {1, 1, 3}, {0.5f, 0.25f, 0.25f}},
      {"resampler", 1, 0, 0, {1, 1, 3}, {0, 0, 1}},
      {"resampler", 0, 0, 0, {1, 1, 3}, {0, 1, 0}},
      {"resampler", 1, 0, 0, {1, 1, 3}, {0, 1, 0}},
      {"xattn", 0, 1, 0, {1, 2, 1}, {1, 1}},
      {"xattn", 0, 3, 1, {1, 1, 1}, {1}},
      {"self_attn", 0, 0, 0, {1, 4, 4}, {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0}},
  });
  PreparedPrompt::Picture first, second;
  first.begin = 1, second.begin = 3, first.rows = second.rows = 1;
  const PreparedPrompt::Picture pictures[] = {first, second};
  const auto heat = rollout.heat(pictures, 3, 4);
  check(heat[0], {0.5 * 0.5 * 0.25, 0.5 * 0.5 * 0.125});  // by way of row 1
  check(heat[1], {0, 0.5 * 0.5 * 0.75});                   // its own
}

TEST_CASE("rollout: a Q-Former beside a text") {
  const AttentionRollout rollout = watch({
      {"qformer.self_attention", 0, 0, 0, {1, 2, 2}, {0, 1, 1, 0}},  // a query and a word
      {"qformer.cross_attention", 0, 0, 0, {1, 1, 3}, {0.5f, 0.5f, 0}},
      {"qformer.self_attention", 1, 0, 0, {1, 2, 2}, {0, 1, 1, 0}},
      {"self_attn", 0, 0, 0, {1, 2, 2}, {1, 0, 1, 0}},
  });
  PreparedPrompt::Picture picture;
  picture.rows = 1;
  const PreparedPrompt::Picture pictures[] = {picture};
  check(rollout.heat(pictures, 1, 2)[0], {0.0625, 0.0625, 0});  // (1/4, 1/4), halved by the second layer's word, halved by the decoder
}

TEST_CASE("rollout: an encoder between picture and decoder") {
  const AttentionRollout rollout = watch({
      {"encoder.self_attn", 0, 0, 0, {1, 3, 3}, {1, 0, 0, 0, 1, 0, 0, 1, 0}},
      {"self_attn", 0, 0, 0, {1, 1, 1}, {1}},
      {"cross_attn", 0, 0, 0, {1, 1, 3}, {0, 0, 1}},
  });
  PreparedPrompt::Picture picture;
  picture.rows = 2;
  const PreparedPrompt::Picture pictures[] = {picture};
  check(rollout.heat(pictures, 0, 1)[0], {0, 0.25});
}

TEST_CASE("a heat map's centre, and its values between the patches") {
  HeatMap map{2, 4, {0, 0, 0, 0, 0, 0, 1, 0.75f}, {}};
  CHECK(map.centre().x == Approx((2.5 * 0.5 + 3.5 * 0.25) / 0.75 / 4));
  CHECK(map.centre().y == Approx(0.75));
  CHECK(map.at({2.5 / 4, 0.75}) == Approx(1));
  CHECK(map.at({3.0 / 4, 0.75}) == Approx(0.875));
  CHECK(map.at({2.5 / 4, 0.5}) == Approx(0.5));
  CHECK(map.at({1, 1}) == Approx(0.75));
  CHECK(map.at({1.01, 1}) == 0);
  map.field = {0.25, 0, 0.75, 1};
  CHECK(map.centre().x == Approx(0.25 + 0.5 * (2.5 * 0.5 + 3.5 * 0.25) / 0.75 / 4));
  CHECK(map.at({0.2, 0.75}) == 0);
  map.values.assign(8, 0.0f);
  CHECK(map.centre().x == Approx(0.5));
  CHECK(HeatMap().at({0.5, 0.5}) == 0);
}

TEST_CASE("an explained answer is the answer, and comes from the object that was asked about") {
  std::ifstream file(source_dir() + "/examples/pictures/truth.json");
  const nlohmann::json truth = nlohmann::json::parse(file);
  for (const std::string style : {"llava", "blip2", "flamingo"}) {
    if (!std::filesystem::exists(bundled(style))) continue;
    const Pipeline vlm = load(bundled(style));
    std::size_t asked = 0, found = 0;
    double chance = 0;
    for (const auto& picture : truth) {
      const Image image = load_image(source_dir() + "/examples/pictures/" + picture.at("picture").get<std::string>());
      for (const auto& question : picture.at("questions")) {
        if (question.at("about").size() != 1) continue;
        const auto& object = picture.at("objects").at(question.at("about").at(0).get<std::size_t>());
        const Prompt prompt = vlm.answer_prompt(image, question.at("question").get<std::string>());
        const Explained explained = explain(vlm, prompt);
        CHECK(explained.reply.text == vlm.generate(prompt));
        REQUIRE(explained.pictures.size() == 1);
        float sum = 0;
        for (const float value : explained.pictures[0].values) sum += value;
        CHECK(sum == Approx(1));
        const HeatMap::Point centre = explained.pictures[0].centre();
        const double x = object.at("x"), y = object.at("y"), radius = object.at("radius");
        found += std::abs(centre.x - x) <= radius && std::abs(centre.y - y) <= radius;
        chance += 4 * radius * radius;
        ++asked;
      }
    }
    INFO(style << ": " << found << " of " << asked << ", by chance " << chance);
    CHECK(asked >= 30);
    CHECK(static_cast<double>(found) >= 0.5 * static_cast<double>(asked));
    CHECK(static_cast<double>(found) >= 5 * chance);
  }
}

TEST_CASE("what cannot be explained says so") {
  const Pipeline vlm = load(bundled("llava"));
  const Image image = load_image(source_dir() + "/examples/pictures/shapes-01.png");
  CHECK_THROWS_AS(explain(vlm, {image, "What colour is the circle?"}, {.num_beams = 3}), ArgumentError);
  CancelToken cancel;
  cancel.cancel();
  CHECK_THROWS_AS(explain(vlm, {image, "What colour is the circle?"}, {}, {}, cancel), Cancelled);
  CHECK(explain(vlm, "Hello").pictures.empty());
}

TEST_CASE("rollout: what is looked at and says nothing does not count") {
  const std::vector<float> weights = {1, 0, 0, 0, 1, 0, 0.75f, 0.25f, 0}, norms = {0, 2, 2};  // the first key's value is nothing
  AttentionRollout rollout;
  rollout.watch({"self_attn", 0, View(weights.data(), Shape{1, 3, 3}), View(norms.data(), Shape{1, 3}), 0, 0});
  PreparedPrompt::Picture picture;
  picture.rows = 2;
  const PreparedPrompt::Picture pictures[] = {picture};
  check(rollout.heat(pictures, 2, 3)[0], {0, 0.5});
}
