/// CheckpointPictures: how pictures are prepared, and whether that suits the vision tower.
#pragma once

#include "language.hpp"

#include <chiasm/io/image.hpp>
#include <chiasm/io/image_processor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace examples {

class CheckpointPictures : public CheckpointLanguage {
 protected:
  using CheckpointLanguage::CheckpointLanguage;

  void read_image_processor() {
    if (!takes_pictures()) return;
    std::string file = "preprocessor_config.json";
    if (has("processor_config.json") && !broken_.contains("processor_config.json") &&
        checkpoint_->processor_config().find("image_processor").is_object())
      file = "processor_config.json";
    if (broken_.contains(file)) return;
    if (!has(file)) return error(file, "not there: it says how pictures are prepared; download it from the same repository");
    (void)try_to(file, [&] {
      const char* const kind = type_ == "clip"     ? "CLIPImageProcessor"
                               : type_ == "siglip" ? "SiglipImageProcessor"
                               : is_blip2()        ? "BlipImageProcessor"
                               : is_idefics()      ? "IdeficsImageProcessor"
                               : anyres_           ? "LlavaNextImageProcessor"
                                                   : "LlavaImageProcessor";
      const chiasm::ImageProcessor processor = chiasm::ImageProcessor::from_json(checkpoint_->image_processor_config(), kind);
      const chiasm::ImageProcessorConfig& c = processor.config();
      facts["image_processor"] = {{"file", file}, {"type", c.image_processor_type}};
      summary.emplace_back("pictures", in_words(c) + " (" + c.image_processor_type + ")");
      if (!vision_) return;
      const std::vector<chiasm::Image> views = processor.views(chiasm::Image(640, 480));
      const std::size_t side = vision_->image_size;
      if (!views.empty() && (views[0].width() != static_cast<int>(side) || views[0].height() != static_cast<int>(side)))
        findings.push_back({is_llava() || is_idefics() || (is_blip2() && !is_retrieval()), file,
                            "makes pictures of " + std::to_string(views[0].width()) + " x " + std::to_string(views[0].height()) +
                                ", the vision tower was trained on " + std::to_string(side) + " x " + std::to_string(side) + " (config.json)"});
      if (view_tokens_ == 0) return;
      std::size_t most = view_tokens_;
      if (anyres_) {
        const std::size_t grid = vision_->grid();
        for (const auto& [height, width] : c.image_grid_pinpoints) {
          const std::size_t rows = static_cast<std::size_t>(height) / side * grid, columns = static_cast<std::size_t>(width) / side * grid;
          most = std::max(most, view_tokens_ + rows * (columns + 1));
        }
      }
      facts["image_tokens"] = {{"least", view_tokens_}, {"most", most}};
      summary.emplace_back("image tokens", anyres_ ? "up to " + std::to_string(most) + " a picture: " + std::to_string(view_tokens_) +
                                                         " for the whole, the rest for its tiles"
                                                   : std::to_string(view_tokens_) + " a picture");
      if (context_ > 0 && view_tokens_ >= context_)
        note("config.json", "one picture takes " + std::to_string(view_tokens_) + " tokens, more than the context of " + std::to_string(context_));
    });
  }

  static std::string in_words(const chiasm::ImageProcessorConfig& c) {
    const char* const filters[] = {"nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming"};
    std::string words;
    const auto step = [&](const std::string& what) { words += (words.empty() ? "" : ", ") + what; };
    const auto pair = [](int width, int height) { return std::to_string(width) + " x " + std::to_string(height); };
    if (!c.image_grid_pinpoints.empty()) {
      std::vector<std::string> canvases;
      for (const auto& [height, width] : c.image_grid_pinpoints) canvases.push_back(pair(width, height));
      step("the whole, and tiles of the best of " + list_text(canvases, 12));
    }
    if (c.do_pad) step("padded to a square");
    const std::string filter = std::string(" (") + filters[static_cast<std::size_t>(c.resample)] + ")";
    if (c.do_resize && c.size.shortest_edge > 0)
      step("shorter side to " + std::to_string(c.size.shortest_edge) + filter);
    else if (c.do_resize && c.size.height > 0)
      step("resized to " + pair(c.size.width, c.size.height) + filter);
    else if (c.do_resize)
      step("resized" + filter);
    if (c.do_center_crop) step("middle " + pair(c.crop_size.width, c.crop_size.height));
    const auto numbers = [](const std::array<double, 3>& values) {
      char text[80];
      if (values[0] == values[1] && values[1] == values[2])
        std::snprintf(text, sizeof text, "%.4g", values[0]);
      else
        std::snprintf(text, sizeof text, "(%.4g, %.4g, %.4g)", values[0], values[1], values[2]);
      return std::string(text);
    };
    if (c.do_rescale && std::abs(c.rescale_factor * 255 - 1) > 1e-6) step("times " + std::to_string(c.rescale_factor));
    if (c.do_normalize) step("mean " + numbers(c.image_mean) + ", deviation " + numbers(c.image_std));
    return words;
  }

 private:
  bool takes_pictures() const { return is_llava() || is_idefics() || is_blip2() || type_ == "clip" || type_ == "siglip"; }
};

}  // namespace examples
