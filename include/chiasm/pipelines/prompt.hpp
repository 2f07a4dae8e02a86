/// Prompt: an ordered list of text, pictures and videos. Order decides what stands where in the model's input. Message: one turn of a chat.
#pragma once

#include <chiasm/io/image.hpp>

#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Prompt {
 public:
  /// Text, a picture, or a video; copies share the pictures.
  class Part {
   public:
    Part(std::string text) : text_(std::move(text)) {}                                 // NOLINT: implicit, so that a list of parts reads well
    Part(std::string_view text) : text_(text) {}                                       // NOLINT
    Part(const char* text) : text_(text) {}                                            // NOLINT
    Part(Image image) : image_(std::make_shared<const Image>(std::move(image))) {}     // NOLINT
    Part(std::shared_ptr<const Image> image) : image_(std::move(image)) {}             // NOLINT
    /// A video: frames that stand in the place of one picture. Throws ArgumentError if there are none.
    explicit Part(std::vector<std::shared_ptr<const Image>> frames) : frames_(std::move(frames)) {
      if (frames_.empty()) throw ArgumentError("a video without frames");
      image_ = frames_.front();
      if (frames_.size() == 1) frames_.clear();
    }

    /// Null for text; a video's first frame.
    const std::shared_ptr<const Image>& image() const noexcept { return image_; }
    /// None for text, one of a picture.
    std::span<const std::shared_ptr<const Image>> frames() const noexcept {
      return frames_.empty() ? std::span(&image_, image_ == nullptr ? 0 : 1) : std::span(frames_);
    }
    const std::string& text() const noexcept { return text_; }

   private:
    std::string text_;
    std::shared_ptr<const Image> image_;
    std::vector<std::shared_ptr<const Image>> frames_;  // of several
  };

  Prompt() = default;
  Prompt(std::initializer_list<Part> parts) : parts_(parts) {}
  Prompt(Part part) : parts_{std::move(part)} {}                                       // NOLINT
  Prompt(const char* text) : Prompt(Part(text)) {}                                     // NOLINT
  Prompt(std::string text) : Prompt(Part(std::move(text))) {}                          // NOLINT

  Prompt& operator<<(Part part) {
    parts_.push_back(std::move(part));
    return *this;
  }

  const std::vector<Part>& parts() const noexcept { return parts_; }
  bool empty() const noexcept { return parts_.empty(); }

 private:
  std::vector<Part> parts_;
};

/// One turn of a conversation.
struct Message {
  std::string role;  // "system", "user" or "assistant"
  Prompt content;
};

/// An example to answer by, in a few-shot prompt.
struct Demonstration {
  std::shared_ptr<const Image> image;  // null: text alone
  std::string question;                // empty: the answer is a caption
  std::string answer;
};

}  // namespace chiasm
