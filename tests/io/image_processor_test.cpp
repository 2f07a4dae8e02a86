/// Image processors against transformers 5.23 (the PIL classes): 8-bit views to the last bit, floats, sizes, old and new files.
#include <chiasm/io/image_file.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/io/safetensors.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/sha256.hpp"

#include <filesystem>
#include <fstream>

using namespace chiasm;

namespace {

Image pattern(std::uint32_t seed, int width, int height) {
  Image image(width, height);
  for (std::uint8_t& value : image.pixels()) value = static_cast<std::uint8_t>((seed = seed * 1664525u + 1013904223u) >> 24);
  return image;
}

// The 8-bit views as transformers lays them out: (views, 3, height, width).
std::string views_sum(const std::vector<Image>& views) {
  std::vector<std::uint8_t> planes;
  for (const Image& view : views)
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t i = c; i < view.pixels().size(); i += 3) planes.push_back(view.pixels()[i]);
  return sha256(planes);
}

// `samples` were taken at trunc(linspace(0, size - 1, samples)).
double worst_sample(const Tensor& values, const std::vector<double>& samples) {
  double worst = 0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto at = static_cast<std::size_t>(static_cast<double>(values.size() - 1) / static_cast<double>(samples.size() - 1) * static_cast<double>(i) + 1e-9);
    worst = std::max(worst, std::abs(static_cast<double>(values.data()[at]) - samples[i]));
  }
  return worst;
}

ImageProcessor processor(const std::string& json, const std::string& type = {}) { return ImageProcessor::from_json(Json::parse(json), type); }

}  // namespace

TEST_CASE("processors give what transformers gives") {
  std::ifstream lines(test_data("image/processors.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    INFO(line);
    const Json wanted = Json::parse(line);
    const auto from = wanted["from"].as_vector<int>(), shape = wanted["shape"].as_vector<int>();
    Image image = pattern(wanted["seed"].as<std::uint32_t>(), from[0], from[1]);
    if (!wanted["transparent"].is_null()) {
      const auto key = wanted["transparent"].as_vector<std::uint8_t>();
      image.set_transparent(std::array{key[0], key[1], key[2]});
    }
    const ImageProcessor process = ImageProcessor::from_json(wanted["config"]);
    const ImageInputs inputs = process(image);
    Shape expected;
    for (const int extent : shape) expected.append(static_cast<std::size_t>(extent));
    CHECK(inputs.pixel_values.shape() == expected);
    CHECK(inputs.original_width == from[0]);
    CHECK(inputs.original_height == from[1]);
    CHECK(views_sum(process.views(image)) == wanted["sha256"].as_string());
    CHECK(worst_sample(inputs.pixel_values, wanted["samples"].as_vector<double>()) <= 2e-6 * (process.config().do_rescale ? 1 : 255));
    if (!process.config().image_grid_pinpoints.empty()) CHECK(inputs.grid_rows * inputs.grid_columns + 1 == shape[0]);
  }
  CHECK(count == 119);
}

namespace {

// The 8-bit values that a processor rescales and normalises, in the layout of pixel_values.
std::string levels_sum(ImageProcessorConfig config, const Image& image) {
  config.do_rescale = config.do_normalize = false;
  const Tensor values = ImageProcessor(std::move(config))(image).pixel_values;
  std::vector<std::uint8_t> levels;
  for (const float value : values.values()) levels.push_back(static_cast<std::uint8_t>(value));
  return sha256(levels);
}

}  // namespace

TEST_CASE("random configurations of every class") {
  std::ifstream lines(test_data("image/processors_random.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    INFO(line);
    const Json wanted = Json::parse(line);
    const auto from = wanted["from"].as_vector<int>();
    Image image = pattern(wanted["seed"].as<std::uint32_t>(), from[0], from[1]);
    if (!wanted["transparent"].is_null()) {
      const auto key = wanted["transparent"].as_vector<std::uint8_t>();
      image.set_transparent(std::array{key[0], key[1], key[2]});
    }
    const ImageProcessor process = ImageProcessor::from_json(wanted["config"]);
    if (!wanted.find("error").is_null()) {
      CHECK_THROWS_AS(process(image), ArgumentError);
      continue;
    }
    const ImageInputs inputs = process(image);
    Shape expected;
    for (const int extent : wanted["shape"].as_vector<int>()) expected.append(static_cast<std::size_t>(extent));
    CHECK(inputs.pixel_values.shape() == expected);
    CHECK(levels_sum(process.config(), image) == wanted["sha256"].as_string());
    const auto samples = wanted["samples"].as_vector<double>();
    double largest = 1;
    for (const double sample : samples) largest = std::max(largest, std::abs(sample));
    CHECK(worst_sample(inputs.pixel_values, samples) <= 2e-6 * largest);
    if (!wanted["grid"].is_null()) CHECK(std::vector<int>{inputs.grid_rows, inputs.grid_columns} == wanted["grid"].as_vector<int>());
  }
  CHECK(count == 132);
}

TEST_CASE("the whole reference collection of processors") {
  const auto folder = shared_data("io/images");
  if (!folder) return;
  for (const std::string name : {"clip224", "clip336", "kosmos2", "blip384", "blip224", "siglip224", "siglip384", "idefics224", "llava_pad336", "llavanext336", "qwen2vl", "idefics3"}) {
    const ImageProcessor process = ImageProcessor::from_file(*folder + "/processors/" + name + ".json");
    std::ifstream lines(*folder + "/" + name + ".jsonl");
    for (std::string line; std::getline(lines, line);) {
      const Json wanted = Json::parse(line);
      const std::string file(wanted["image"].as_string());
      const bool jpeg = file.ends_with(".jpg");
      if (file.starts_with("big_") || (jpeg && name != "clip224" && name != "llavanext336" && name != "idefics3")) continue;
      INFO(name + " " + file);
#ifndef CHIASM_HAS_JPEG
      if (jpeg) continue;
#endif
#ifndef CHIASM_HAS_WEBP
      if (file.ends_with(".webp")) continue;
#endif
      const Image image = load_image(*folder + "/in/" + file);
      if (!wanted.find("error").is_null()) {
        CHECK_THROWS_AS(process(image), ArgumentError);
        continue;
      }
      const ImageInputs inputs = process(image);
      const auto shape = wanted["shape"].as_vector<std::size_t>();
      Shape expected;
      for (std::size_t i = shape.size() - inputs.pixel_values.shape().rank(); i < shape.size(); ++i) expected.append(shape[i]);
      CHECK(inputs.pixel_values.shape() == expected);
      CHECK(levels_sum(process.config(), image) == wanted["u8_sha256"].as_string());
      if (const Json grid = wanted.find("image_grid_thw"); !grid.is_null()) CHECK(std::vector<int>{1, inputs.grid_rows, inputs.grid_columns} == grid.at(0).as_vector<int>());
      if (const Json rows = wanted.find("rows"); !rows.is_null()) {
        CHECK(inputs.grid_rows == rows.at(0).at(0).as_int());
        CHECK(inputs.grid_columns == wanted["cols"].at(0).at(0).as_int());
      }
      CHECK(worst_sample(inputs.pixel_values, wanted["samples"].as_vector<double>()) <= 2e-6);
      if (const Json sizes = wanted.find("image_sizes"); !sizes.is_null()) {
        CHECK(inputs.original_height == sizes.at(0).at(0).as_int());
        CHECK(inputs.original_width == sizes.at(0).at(1).as_int());
      }
    }
  }
}

TEST_CASE("pixel values of the golden cases") {
  const auto folder = shared_data("golden/cases");
  if (!folder) return;
  std::size_t pictures = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    const std::string path = entry.path().string();
    INFO(path);
    if (!std::filesystem::exists(path + "/model/preprocessor_config.json")) continue;
    const Json file = Json::read(path + "/model/preprocessor_config.json");
    if (file.get<std::string>("feature_extractor_type", "").starts_with("Whisper")) continue;
    const ImageProcessor process = ImageProcessor::from_json(file);
    const std::string family = Json::read(path + "/model/config.json").get<std::string>("model_type", "");
    const bool keeps_alpha = family == "clip" || family.starts_with("llava") || family.starts_with("blip") || family.starts_with("instructblip");
    const Weights expected = read_safetensors(path + "/expected.safetensors");
    for (const Json input : Json::read(path + "/case.json")["inputs"]) {
      const std::string name = input.get<std::string>("name", "");
      const std::string key = expected.contains(name + ".pixel_values") ? name + ".pixel_values" : "pixel_values";
      if (!expected.contains(key) || input.find("images").size() == 0) continue;
      const Tensor wanted = expected.get(key).to_f32();
      if (process.config().patch_size) {  // the patches of all pictures, one after the other
        std::size_t row = 0, image = 0;
        for (const Json picture : input["images"]) {
          const ImageInputs inputs = process(load_image(path + "/" + picture.as<std::string>()));
          REQUIRE(row + inputs.pixel_values.rows() <= wanted.rows());
          double worst = 0;
          for (std::size_t i = 0; i < inputs.pixel_values.size(); ++i)
            worst = std::max(worst, static_cast<double>(std::abs(inputs.pixel_values.data()[i] - wanted.row(row)[i])));
          CHECK(worst <= 2e-6);
          row += inputs.pixel_values.rows();
          if (expected.contains(name + ".image_grid_thw")) {
            const Tensor grid = expected.get(name + ".image_grid_thw").to_f32();
            CHECK(grid.row(image)[1] == static_cast<float>(inputs.grid_rows));
            CHECK(grid.row(image)[2] == static_cast<float>(inputs.grid_columns));
          }
          ++image, ++pictures;
        }
        CHECK(row == wanted.rows());
        continue;
      }
      const std::size_t view = wanted.shape()[-3] * wanted.shape()[-2] * wanted.shape()[-1];
      const std::size_t views = process.config().image_grid_pinpoints.empty() ? 1 : wanted.shape()[1];
      std::size_t image = 0;
      for (const Json picture : input["images"]) {
        std::string source = path + "/" + picture.as<std::string>();
        if (source.ends_with(".jpg")) source.replace(source.size() - 4, 4, ".decoded.png");  // so that only the processor is judged
        INFO(source);
        // Some families' references were given PIL images with their alpha, others pictures already converted.
        const ImageInputs inputs = process(load_image(source, keeps_alpha ? Alpha::white : Alpha::drop));
        REQUIRE(inputs.pixel_values.size() <= views * view);
        const float* at = wanted.data() + image * views * view;
        double worst = 0;
        for (std::size_t i = 0; i < views * view; ++i)  // views that only another picture of the batch has are zero
          worst = std::max(worst, static_cast<double>(std::abs((i < inputs.pixel_values.size() ? inputs.pixel_values.data()[i] : 0.0f) - at[i])));
        CHECK(worst <= 2e-6);
        if (expected.contains(name + ".image_sizes")) {
          const Tensor sizes = expected.get(name + ".image_sizes").to_f32();
          CHECK(sizes.row(image)[0] == static_cast<float>(inputs.original_height));
          CHECK(sizes.row(image)[1] == static_cast<float>(inputs.original_width));
        }
        ++image, ++pictures;
      }
    }
  }
  CHECK(pictures >= 35);
}

TEST_CASE("preprocessor_config.json, old and new") {
  const auto clip = processor(R"({"feature_extractor_type": "CLIPFeatureExtractor", "size": 42, "crop_size": 40})").config();
  CHECK(clip.image_processor_type == "CLIPImageProcessor");
  CHECK(clip.size == ImageSize{.shortest_edge = 42});
  CHECK(clip.crop_size == ImageSize{.height = 40, .width = 40});
  CHECK(clip.do_center_crop);
  CHECK(clip.image_mean[0] == 0.48145466);

  const auto defaults = processor(R"({"image_processor_type": "CLIPImageProcessorFast"})").config();
  CHECK(defaults.size == ImageSize{.shortest_edge = 224});
  CHECK(defaults.crop_size == ImageSize{.height = 224, .width = 224});
  CHECK(defaults.rescale_factor == 1.0 / 255.0);

  CHECK(processor(R"({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 42}, "use_square_size": true})").config().size ==
        ImageSize{.height = 224, .width = 224});  // as in transformers 5.23
  CHECK(processor(R"({"processor_class": "X", "image_processor": {"image_processor_type": "SiglipImageProcessorPil", "size": {"height": 3, "width": 5}}})").config().size ==
        ImageSize{.height = 3, .width = 5});
  CHECK(processor(R"({"image_processor_type": "IdeficsImageProcessor", "image_size": 42})").config().size == ImageSize{.height = 42, .width = 42});
  CHECK(processor(R"({"image_processor_type": "BlipImageProcessor", "size": 42, "resample": 2})").config().resample == Resample::bilinear);
  CHECK(processor(R"({"image_processor_type": "LlavaNextImageProcessor"})").config().image_grid_pinpoints.size() == 5);
  CHECK(processor("{}", "ViTImageProcessor").config().image_std[1] == 0.5);
  for (const std::string bounds : {R"("min_pixels": 100, "max_pixels": 20000000)", R"("size": {"shortest_edge": 100, "longest_edge": 20000000})",
                                   R"("size": {"min_pixels": 100, "max_pixels": 20000000})", R"("size": {"shortest_edge": 5, "longest_edge": 7}, "min_pixels": 100, "max_pixels": 20000000)"}) {
    const auto qwen = processor(R"({"image_processor_type": "Qwen2VLImageProcessor", )" + bounds + "}").config();
    CHECK(qwen.size == ImageSize{.shortest_edge = 100, .longest_edge = 20000000});
    CHECK(qwen.patch_size == 14);
  }
  const auto idefics3 = processor(R"({"image_processor_type": "Idefics3ImageProcessor"})").config();
  CHECK(idefics3.size == ImageSize{.longest_edge = 1456});
  CHECK(idefics3.max_image_size == 364);
  CHECK(idefics3.resample == Resample::lanczos);
  CHECK(processor(R"({"image_processor_type": "SmolVLMImageProcessor", "max_image_size": {"longest_edge": 512}, "do_image_splitting": false})").config().max_image_size == 512);
}

TEST_CASE("files that make no sense") {
  CHECK_THROWS_AS(processor("{}"), ConfigError);
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "MllamaImageProcessor"})"), UnsupportedError);
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "BlipImageProcessor", "do_pad": true, "pad_size": 400})"), UnsupportedError);
  for (const std::string rest : {R"("patch_size": 0})", R"("merge_size": 9999})", R"("min_pixels": 0})", R"("size": {"shortest_edge": 4}})", R"("size": 1e99})"})
    CHECK_THROWS_AS(processor(R"({"image_processor_type": "Qwen2VLImageProcessor", )" + rest), ConfigError);
  for (const std::string rest : {R"("max_image_size": {"longest_edge": 1}})", R"("max_image_size": {}})", R"("size": {"shortest_edge": 4}})"})
    CHECK_THROWS_AS(processor(R"({"image_processor_type": "Idefics3ImageProcessor", )" + rest), ConfigError);
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "LlavaNextImageProcessor", "crop_size": 1, "image_grid_pinpoints": [[16384, 16384]]})"), ConfigError);
  const std::string clip = R"({"image_processor_type": "CLIPImageProcessor", )";
  for (const std::string rest : {R"("size": 0})", R"("size": -3})", R"("size": 1e9})", R"("size": 99999999})", R"("size": "large"})", R"("size": {"longest_edge": 3}})", R"("size": {}})", R"("size": [1, 2, 3]})",
                                 R"("crop_size": {"height": 3}})", R"("crop_size": {"height": 3, "width": true}})", R"("resample": 6})", R"("resample": "bicubic"})", R"("image_mean": [1, 2]})", R"("image_mean": "gray"})",
                                 R"("image_std": [0.5, 0, 0.5]})", R"("image_std": 0})", R"("do_resize": 3})", R"("rescale_factor": "1/255"})"}) {
    INFO(rest);
    CHECK_THROWS_AS(processor(clip + rest), ConfigError);
  }
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "SiglipImageProcessor", "do_center_crop": true})"), ConfigError);
  const std::string next = R"({"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": )";
  for (const std::string rest : {"[]}", "3}", "[[1]]}", "[[0, 3]]}", R"(["wide"]})"}) CHECK_THROWS_AS(processor(next + rest), ConfigError);
}

TEST_CASE("pictures too thin for the processor") {
  const Image line(1, 3000);
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "ViTImageProcessor", "size": {"max_height": 100, "max_width": 100}})")(line), ArgumentError);
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "Qwen2VLImageProcessor"})")(line), ArgumentError);
  CHECK_THROWS_AS(processor(R"({"image_processor_type": "Qwen2VLImageProcessor", "do_resize": false})")(line), ArgumentError);
  CHECK(processor(R"({"image_processor_type": "Idefics3ImageProcessor"})")(line).pixel_values.shape() == Shape{5, 3, 364, 364});
  // Only the part that the crop keeps is computed: 224 x 672000 pixels before it.
  CHECK(processor(R"({"image_processor_type": "CLIPImageProcessor"})")(line).pixel_values.shape() == Shape{1, 3, 224, 224});
}

TEST_CASE("where the view of the whole picture lies in it") {
  const auto field = [](const std::string& json, int width, int height) {
    return ImageProcessor::from_json(Json::parse(json, "preprocessor_config.json")).field_of_view(Image(width, height));
  };
  const FieldOfView cropped = field(R"({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 100}, "crop_size": {"height": 100, "width": 100}})", 400, 200);
  CHECK(cropped.left == Approx(0.25));
  CHECK(cropped.right == Approx(0.75));
  CHECK(cropped.top == Approx(0));
  CHECK(cropped.bottom == Approx(1));
  const FieldOfView squashed = field(R"({"image_processor_type": "BlipImageProcessor", "size": {"height": 100, "width": 100}})", 400, 200);
  CHECK(squashed.left == 0);
  CHECK(squashed.right == 1);
  const FieldOfView padded = field(R"({"image_processor_type": "LlavaImageProcessor", "do_pad": true, "size": {"shortest_edge": 100}, "crop_size": {"height": 100, "width": 100}})", 400, 200);
  CHECK(padded.left == Approx(0));
  CHECK(padded.right == Approx(1));
  CHECK(padded.top == Approx(-0.5));
  CHECK(padded.bottom == Approx(1.5));
}
