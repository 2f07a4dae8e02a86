/// Chat template: the Jinja text of a checkpoint that turns messages into one prompt. The language is Jinja 3.1 as
/// transformers' `apply_chat_template` runs it: immutable sandbox, trim_blocks and lstrip_blocks on, loop controls,
/// the `generation` block, `tojson` = json.dumps(ensure_ascii=False), and Python's ways of printing and comparing.
#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/io/json.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Checkpoint;
class Gguf;

namespace detail::jinja {
struct Access;
struct Program;
}  // namespace detail::jinja

/// A template cannot render what it was given: its own raise_exception (`raised`, `reason` is its text), a Python
/// TypeError or UndefinedError, a forbidden call, or a limit of RenderOptions.
class TemplateError : public ArgumentError {
 public:
  TemplateError(std::string path, std::size_t at, std::string what, bool by_template)
      : ArgumentError(path + ": line " + std::to_string(at) + ": " + what),
        file(std::move(path)),
        line(at),
        reason(std::move(what)),
        raised(by_template) {}
  std::string file;
  std::size_t line;
  std::string reason;
  bool raised;
};

/// A value that a template can see: Python's None, bool, int (64 bit), float, str (UTF-8), list or dict with str keys
/// in insertion order. Cheap to copy; copies never see each other's changes.
class TemplateValue {
 public:
  /// Those after `dict` exist only inside a running template.
  enum class Kind : std::uint8_t {
    undefined,
    none,
    boolean,
    integer,
    number,
    string,
    list,
    dict,
    tuple,
    view,
    range,
    generator,
    attributes,
    macro,
    method,
    function,
    loop
  };

  TemplateValue() noexcept : kind_(Kind::none) {}
  TemplateValue(std::nullptr_t) noexcept : kind_(Kind::none) {}
  template <std::same_as<bool> T>
  TemplateValue(T value) noexcept : kind_(Kind::boolean), integer_(value ? 1 : 0) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) TemplateValue(T value)
      : kind_(Kind::integer), integer_(checked(std::in_range<std::int64_t>(value), static_cast<std::int64_t>(value))) {}
  template <std::floating_point T>
  TemplateValue(T value) noexcept : kind_(Kind::number), number_(static_cast<double>(value)) {}
  TemplateValue(std::string value);
  TemplateValue(std::string_view value) : TemplateValue(std::string(value)) {}
  TemplateValue(const char* value) : TemplateValue(std::string(value)) {}
  TemplateValue(const Json& value);

  /// Throw ArgumentError when nested deeper than 512 levels. A key given twice keeps its first place and last value.
  static TemplateValue list(std::vector<TemplateValue> elements = {});
  static TemplateValue dict(std::vector<std::pair<std::string, TemplateValue>> members = {});

  /// Adds to a list. Throws ArgumentError if this is none.
  TemplateValue& append(TemplateValue element);
  /// Sets a member of a dict. Throws ArgumentError if this is none.
  TemplateValue& set(std::string_view key, TemplateValue value);

  Kind kind() const noexcept { return kind_; }

 private:
  friend struct detail::jinja::Access;
  static std::int64_t checked(bool fits, std::int64_t value) {
    if (!fits) throw ArgumentError("TemplateValue: integer beyond 64 bits");
    return value;
  }

  Kind kind_;
  bool markup_ = false;  // a string that went through |safe or |escape
  union {
    std::int64_t integer_ = 0;
    double number_;
  };
  std::shared_ptr<const void> box_;
};

/// How a template wants `message.content`: as one string, or as a list of {"type": "text", "text": ...} and {"type": "image"}.
enum class ContentForm : std::uint8_t { text, parts };

/// One turn of a conversation, for make_messages().
struct ChatMessage {
  struct Part {
    std::string type = "text";  // "text", or what the template calls the other media: "image", "audio", "video"
    std::string text;           // for "text" only
  };
  std::string role;  // "system", "user", "assistant"
  std::vector<Part> parts;
};

/// The `messages` variable. With ContentForm::parts each content is a list of parts. With ContentForm::text it is one
/// string: the texts in order, with `media` (e.g. "<image>", "<|image_1|>") where another part stands.
/// ChatTemplate::content_form() says which of the two a template takes.
TemplateValue make_messages(std::span<const ChatMessage> conversation, ContentForm form, std::string_view media = "");

/// What a rendering may use.
struct RenderOptions {
  /// The clock behind strftime_now (year, month, day and time count; the weekday is computed). Default: local time now.
  std::optional<std::tm> now;
  /// Evaluated nodes, elements copied, and 16-byte pieces of text made. A conversation of 1000 turns needs some 100 000.
  std::uint64_t max_steps = 10'000'000;
  /// The longest string, the output included.
  std::size_t max_bytes = std::size_t{64} << 20;
};

/// A parsed template: immutable, cheap to copy, may be rendered by many threads at once.
class ChatTemplate {
 public:
  /// Parses. `file` is what errors call it. Throws FormatError (with the line in its text), and UnsupportedError for
  /// tags of Jinja that chat templates have no use for (include, import, extends, block, autoescape).
  explicit ChatTemplate(std::string_view source, std::string file = "<template>");

  /// The template of a checkpoint folder, or none if it has none. Looked for, first hit wins, as transformers 5 does
  /// for a processor and then its tokenizer: processor_config.json, chat_template.json, additional_chat_templates/
  /// `name`.jinja or chat_template.jinja (name "default"), tokenizer_config.json; in the JSON files under
  /// "chat_template", a string or a list of {name, template}. Throws FileError, FormatError, ConfigError (there are
  /// templates, but none called `name`), UnsupportedError.
  static std::optional<ChatTemplate> find(const std::string& folder, std::string_view name = "default");
  static std::optional<ChatTemplate> find(const Checkpoint& checkpoint, std::string_view name = "default");

  /// The template of a GGUF file, or none if it has none: tokenizer.chat_template, or, called `name`, tokenizer.chat_template.`name`. Throws
  /// FormatError, ConfigError, UnsupportedError.
  static std::optional<ChatTemplate> find(const Gguf& file, std::string_view name = "default");

  /// The same of a folder, where none is an error. Throws FileError.
  static ChatTemplate from_folder(const std::string& folder, std::string_view name = "default");

  /// Renders with a dict of variables: "messages", "add_generation_prompt", "bos_token", "eos_token", "tools" ...
  /// apply_chat_template always gives `tools` and `documents`, None where there are none. Throws TemplateError, and
  /// UnsupportedError for a filter, test, method or function that this library does not know.
  std::string render(const TemplateValue& variables, const RenderOptions& options = {}) const;

  /// Found by rendering a probe: ContentForm::parts if a list of parts comes out as its text, otherwise ContentForm::text.
  /// Templates that take both get parts.
  ContentForm content_form() const;

 private:
  std::shared_ptr<const detail::jinja::Program> program_;
};

}  // namespace chiasm::inline CHIASM_ABI

#ifndef CHIASM_COMPILED
#include <chiasm/impl/chat_template.ipp>
#endif
