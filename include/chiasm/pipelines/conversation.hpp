/// Conversation: turn after turn with a pipeline. What has been said and shown is read once; it can be saved to a file and go on another day.
#pragma once

#include <chiasm/pipelines/pipeline.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// Not to be shared between threads.
class Conversation {
 public:
  /// `system` is what the model is told before the first turn; empty: nothing.
  explicit Conversation(Pipeline pipeline, std::string_view system = {});

  /// The user's turn and the model's answer to it, which both join messages(). After an exception the conversation is as before. An answer
  /// that was cancelled stays, as far as it came. Throws as Pipeline::chat.
  std::string ask(const Prompt& turn, const GenerateOptions& options = {}, const OnText& on_text = {});
  Reply ask(Context& ctx, const Prompt& turn, const GenerateOptions& options = {}, const OnText& on_text = {});

  const std::vector<Message>& messages() const noexcept { return messages_; }
  /// Goes back to the first `count` messages.
  void rewind(std::size_t count);
  const Pipeline& pipeline() const noexcept { return pipeline_; }

  /// Writes messages, pictures, keys and values to a file: safetensors, with the texts as metadata. Throws FileError.
  void save(const std::string& path) const;
  /// The conversation of that file, with the pipeline it was held with: the first positions are read again and compared. Throws FileError,
  /// FormatError, and WeightError where the file's keys are not those of this pipeline's model.
  static Conversation restore(Pipeline pipeline, const std::string& path);

 private:
  Pipeline pipeline_;
  std::vector<Message> messages_;
  Prefix prefix_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/conversation.ipp>
#endif
