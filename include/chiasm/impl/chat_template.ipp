#pragma once

#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/gguf_model.hpp>

#include <chiasm/impl/jinja_filters.ipp>
#include <chiasm/impl/jinja_time.ipp>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE ChatTemplate::ChatTemplate(std::string_view source, std::string file) {
  const auto program = std::make_shared<detail::jinja::Program>();
  program->file = std::move(file);
  constexpr std::size_t most = std::size_t{4} << 20;  // published ones have at most some 30 KB
  if (source.size() > most)
    throw FormatError(program->file, most, "chat template of " + std::to_string(source.size()) + " bytes");
  detail::jinja::Lexer lexer(source, program->file);
  detail::jinja::Parser(lexer.run(), *program).run();
  program_ = program;
}

CHIASM_INLINE std::string ChatTemplate::render(const TemplateValue& variables, const RenderOptions& options) const {
  return detail::jinja::Run(*program_, variables, options).render();
}

namespace detail::jinja {

// "chat_template" of a JSON file: a string, which is the template `default`, or a list of {name, template}.
inline std::optional<ChatTemplate> in_json(const Json& file, std::string_view name) {
  const Json found = file.find("chat_template");
  if (found.is_null()) return std::nullopt;
  const std::string where = file.file() + " (chat_template)";
  std::string names;
  if (found.is_array() || found.is_object()) {
    for (const Json entry : found) {
      const std::string_view own = found.is_object() ? entry.key() : entry["name"].as_string();
      if (own == name) return ChatTemplate(found.is_object() ? entry.as_string() : entry["template"].as_string(), where);
      names += (names.empty() ? "'" : "', '") + std::string(own);
    }
    found.fail("has no template '" + std::string(name) + "', but " + (names.empty() ? "none at all" : names + "'"));
  }
  if (name != "default") found.fail("is one template, 'default'; there is no '" + std::string(name) + "'");
  return ChatTemplate(found.as_string(), where);
}

}  // namespace detail::jinja

CHIASM_INLINE std::optional<ChatTemplate> ChatTemplate::find(const Checkpoint& checkpoint, std::string_view name) {
  if (name.find_first_of("/\\") != std::string_view::npos || name.empty())
    throw ArgumentError("ChatTemplate: '" + std::string(name) + "' is no name of a template");
  if (const GgufModel* const model = checkpoint.gguf()) return find(model->text, name);
  for (const char* file : {"processor_config.json", "chat_template.json"})
    if (auto found = detail::jinja::in_json(checkpoint.json(file), name)) return found;
  const std::string file = name == "default" ? "chat_template.jinja" : "additional_chat_templates/" + std::string(name) + ".jinja";
  if (checkpoint.has(file)) return ChatTemplate(checkpoint.read(file), checkpoint.path(file));
  return detail::jinja::in_json(checkpoint.tokenizer_config(), name);
}

CHIASM_INLINE std::optional<ChatTemplate> ChatTemplate::find(const Gguf& file, std::string_view name) {
  const std::string base = "tokenizer.chat_template", key = name == "default" ? base : base + "." + std::string(name);
  if (const Gguf::Value* const found = file.find(key)) return ChatTemplate(found->as_string(), file.file() + " (" + key + ")");
  if (const Gguf::Value* const other = file.find(base); other != nullptr && name != "default")
    other->fail("is the template 'default'; there is no '" + std::string(name) + "'");
  return std::nullopt;
}

CHIASM_INLINE std::optional<ChatTemplate> ChatTemplate::find(const std::string& folder, std::string_view name) {
  return find(Checkpoint::open(folder), name);
}

CHIASM_INLINE ChatTemplate ChatTemplate::from_folder(const std::string& folder, std::string_view name) {
  if (auto found = find(folder, name)) return *std::move(found);
  throw FileError(folder,
                  "no chat template: neither chat_template.jinja nor chat_template.json, and none in processor_config.json or "
                  "tokenizer_config.json");
}

CHIASM_INLINE TemplateValue make_messages(std::span<const ChatMessage> conversation, ContentForm form, std::string_view media) {
  TemplateValue messages = TemplateValue::list();
  for (const ChatMessage& message : conversation) {
    TemplateValue content;
    if (form == ContentForm::parts) {
      content = TemplateValue::list();
      for (const ChatMessage::Part& part : message.parts) {
        TemplateValue entry = TemplateValue::dict({{"type", part.type}});
        if (part.type == "text") entry.set("text", part.text);
        content.append(std::move(entry));
      }
    } else {
      std::string text;
      for (const ChatMessage::Part& part : message.parts) text += part.type == "text" ? std::string_view(part.text) : media;
      content = TemplateValue(std::move(text));
    }
    messages.append(TemplateValue::dict({{"role", message.role}, {"content", std::move(content)}}));
  }
  return messages;
}

CHIASM_INLINE ContentForm ChatTemplate::content_form() const {
  constexpr const char* probe = "chiasm-probe";
  const std::vector<ChatMessage> conversation = {{"user", {{"text", probe}}}};
  const TemplateValue variables = TemplateValue::dict({{"messages", make_messages(conversation, ContentForm::parts)},
                                                       {"tools", nullptr},
                                                       {"documents", nullptr},
                                                       {"add_generation_prompt", true},
                                                       {"bos_token", ""},
                                                       {"eos_token", ""},
                                                       {"pad_token", ""},
                                                       {"unk_token", ""}});
  try {
    const std::string text = render(variables);
    // A template for strings may also print the list, as Python would: [{'type': 'text', ...
    const bool printed = text.find("'type'") != std::string::npos || text.find("\"type\"") != std::string::npos;
    return text.find(probe) != std::string::npos && !printed ? ContentForm::parts : ContentForm::text;
  } catch (const TemplateError&) {
    return ContentForm::text;
  }
}

}  // namespace chiasm::inline CHIASM_ABI
