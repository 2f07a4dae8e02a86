/// Patch embedding: a convolution whose stride is its kernel size, so a matrix product over patches. ViT, arXiv:2010.11929.
#pragma once

#include <chiasm/nn/linear.hpp>

#include <cstring>

namespace chiasm::inline CHIASM_ABI {

class PatchEmbedding {
 public:
  PatchEmbedding() = default;
  /// `weight` (width, channels, patch, patch) and maybe `bias` (width) below `w`. Throws WeightError.
  PatchEmbedding(const Weights& w, std::size_t channels, std::size_t patch, std::size_t width, bool bias)
      : channels_(channels),
        patch_(patch),
        projection_(w.get("weight", Shape{width, channels, patch, patch}).reshape(Shape{width, channels * patch * patch}),
                    bias ? w.tensor("bias", Shape{width}) : Tensor()) {}

  /// Patches row by row; pixels beyond the last whole patch are dropped. Throws ShapeError.
  Tensor operator()(Context& ctx, View pixels) const {  // (N, C, H, W) -> (N, rows * columns, D)
    const Shape& shape = pixels.shape();
    if (shape.rank() != 4 || shape[1] != channels_ || shape[2] < patch_ || shape[3] < patch_)
      throw ShapeError("PatchEmbedding", shape.to_string() + ", patches (" + std::to_string(channels_) + ", " + std::to_string(patch_) + ", " +
                                             std::to_string(patch_) + ")");
    const std::size_t height = shape[2], rows = height / patch_, columns = shape[3] / patch_;
    Tensor patches = ctx.empty(Shape{shape[0], rows * columns, channels_ * patch_ * patch_});
    ctx.parallel(shape[0] * rows, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t image = i / rows, y = i % rows;
        for (std::size_t x = 0; x < columns; ++x) {
          float* to = patches.row(i * columns + x);
          for (std::size_t c = 0; c < channels_; ++c)
            for (std::size_t dy = 0; dy < patch_; ++dy, to += patch_)
              std::memcpy(to, pixels.row((image * channels_ + c) * height + y * patch_ + dy) + x * patch_, patch_ * sizeof(float));
        }
      }
    });
    return projection_(ctx, patches);
  }

 private:
  std::size_t channels_ = 0, patch_ = 0;
  Linear projection_;
};

}  // namespace chiasm
