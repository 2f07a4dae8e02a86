/// Prompt: an ordered list of text and pictures. Order decides what stands where in the model's input. Message: one turn of a chat.
#pragma once

#include <chiasm/io/image.hpp>

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Prompt {
 public:
  /// Text, or a picture; copies share the picture.
  class Part {
   public:
    Part(std::string text) : text_(std::move(text)) {}                                 // NOLINT: implicit, so that a list of parts reads well
    Part(std::string_view text) : text_(text) {}                                       // NOLINT
    Part(const char* text) : text_(text) {}                                            // NOLINT
    Part(Image image) : image_(std::make_shared<const Image>(std::move(image))) {}     // NOLINT
    Part(std::shared_ptr<const Image> image) : image_(std::move(image)) {}             // NOLINT

    /// Null for text.
    const std::shared_ptr<const Image>& image() const noexcept { return image_; }
    const std::string& text() const noexcept { return text_; }

   private:
    std::string text_;
    std::shared_ptr<const Image> image_;
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

}  // namespace chiasm
