// Parity with the reference, stage by stage: pixels, vision tower, connector, hidden states, logits, generated tokens.
// tests/golden/cases holds one case per family; where the whole collection is there, every case of the families is run.
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/paths.hpp"

#include <cmath>
#include <set>

namespace {

void check_case(const std::string& folder) {
  INFO(folder);
  const golden::Result result = golden::run_case(folder);
  const chiasm::Weights expected = golden::read_expected(folder + "/expected.safetensors");
  for (const std::string& name : expected.names()) {
    // The torchvision backend's pixels are kept beside Pillow's, which the models were run on.
    if (name == "pixel_values_torchvision") continue;
    INFO(name);
    REQUIRE(result.tensors.entries().contains(name));
    const auto& actual = result.tensors.entries().at(name);
    const chiasm::Weight want = expected.get(name);
    REQUIRE(std::vector<std::size_t>(want.shape().begin(), want.shape().end()) == actual.shape);
    if (actual.dtype == chiasm::DType::i64) {
      const chiasm::Tensor ids = want.to_f32();
      for (std::size_t i = 0; i < ids.size(); ++i) {
        std::int64_t id = 0;
        std::memcpy(&id, actual.bytes.data() + i * sizeof id, sizeof id);
        REQUIRE(static_cast<float>(id) == ids.data()[i]);
      }
      continue;
    }
    const chiasm::Tensor reference = want.to_f32();
    double largest = 0, worst = 0;
    for (std::size_t i = 0; i < reference.size(); ++i) {
      float value = 0;
      std::memcpy(&value, actual.bytes.data() + i * sizeof value, sizeof value);
      const double want_value = static_cast<double>(reference.data()[i]), difference = std::abs(static_cast<double>(value) - want_value);
      largest = std::max(largest, std::abs(want_value));
      worst = difference <= worst ? worst : difference;  // NaN is worst
    }
    CHECK(worst <= (name.find("pixel_values") != std::string::npos ? 1e-5 : 1e-4 * largest));
  }
  std::ifstream file(folder + "/case.json");
  const nlohmann::json runs = nlohmann::json::parse(file).at("runs");
  REQUIRE(runs.size() == result.runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    INFO(result.runs[i].dump());
    CHECK(runs[i].at("output_ids") == nlohmann::json(result.runs[i].value("output_ids", nlohmann::json())));
    CHECK(runs[i].at("text") == nlohmann::json(result.runs[i].value("text", nlohmann::json("no text"))));  // of a batch, one for each prompt
  }
}

/// The cases of `families` below `folder`.
std::set<std::string> cases(const std::string& folder, const std::set<std::string>& families) {
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path() / "case.json");
    if (file && families.contains(nlohmann::json::parse(file).at("family").get<std::string>())) found.insert(entry.path().string());
  }
  return found;
}

const std::set<std::string> families = {"blip2", "blip2_itm", "instructblip", "clip", "siglip", "llava", "llava_next", "idefics", "lm_gpt_neox", "lm_llama", "lm_mistral", "lm_mpt", "lm_opt", "lm_qwen2", "lm_t5", "open_flamingo"};

}  // namespace

TEST_CASE("committed reference cases are met, stage by stage") {
  const std::set<std::string> committed = cases(test_data("cases"), families);
  CHECK(committed.size() >= 7);
  for (const std::string& folder : committed) check_case(folder);
}

TEST_CASE("all reference cases are met, stage by stage") {
  const auto folder = shared_data("golden/cases");
  if (!folder) return;
  for (const std::string& one : cases(*folder, families)) check_case(one);
}
