#pragma once

#include <chiasm/io/safetensors.hpp>
#include <chiasm/pipelines/conversation.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE Conversation::Conversation(Pipeline pipeline, std::string_view system) : pipeline_(std::move(pipeline)) {
  if (!system.empty()) messages_.push_back({"system", Prompt(std::string(system))});
}

CHIASM_INLINE Reply Conversation::ask(Context& ctx, const Prompt& turn, const GenerateOptions& options, const OnText& on_text) {
  messages_.push_back({"user", turn});
  try {
    Reply reply = pipeline_.chat(ctx, messages_, prefix_, options, on_text);
    messages_.push_back({"assistant", Prompt(reply.text)});
    return reply;
  } catch (...) {
    messages_.pop_back();
    throw;
  }
}
CHIASM_INLINE std::string Conversation::ask(const Prompt& turn, const GenerateOptions& options, const OnText& on_text) {
  Context ctx = pipeline_.new_context();
  return ask(ctx, turn, options, on_text).text;
}

CHIASM_INLINE void Conversation::rewind(std::size_t count) {
  if (count < messages_.size()) messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(count), messages_.end());
}

namespace detail {

inline constexpr std::string_view conversation_format = "chiasm conversation 1";

/// The names in a saved conversation.
inline std::string message_key(std::size_t message, std::string_view what) { return "message." + std::to_string(message) + "." + std::string(what); }
inline std::string part_key(std::size_t message, std::size_t part, std::string_view what) {
  return message_key(message, "part." + std::to_string(part) + "." + std::string(what));
}
inline std::string picture_key(std::size_t picture) { return "picture." + std::to_string(picture); }
inline std::string layer_key(std::size_t layer, std::string_view what) { return "layers." + std::to_string(layer) + "." + std::string(what); }

/// One that borrows: for a file that is written at once.
template <class T>
Weight as_weight(std::string name, DType dtype, Shape shape, const T* data) {
  return Weight(std::move(name), dtype, shape, reinterpret_cast<const std::byte*>(data), nullptr, "<memory>");
}

inline constexpr std::size_t compared_positions = 4;

/// Throws WeightError where the first keys in `cache` are not what `lm` makes of these ids.
inline void compare_keys(Context& ctx, const LanguageModel& lm, std::span<const TokenId> ids, const KvCache& cache, const std::string& file) {
  KvCache fresh = lm.new_cache();
  (void)lm.forward(ctx, lm.embed(ctx, ids), fresh);
  KvCache kept = lm.new_cache();
  kept.copy_head(ctx, cache, ids.size());
  for (std::size_t i = 0; i < cache.layers(); ++i) {
    const Shape keys{ids.size(), fresh[i].key_width()}, values{ids.size(), fresh[i].value_width()};
    Tensor want = ctx.empty(keys), have = ctx.empty(keys), unused = ctx.empty(values);
    fresh[i].read(want, unused);
    kept[i].read(have, unused);
    double difference = 0, largest = 0;
    for (std::size_t k = 0; k < want.size(); ++k) {
      difference = std::max(difference, std::fabs(static_cast<double>(want.data()[k]) - static_cast<double>(have.data()[k])));
      largest = std::max(largest, std::fabs(static_cast<double>(want.data()[k])));
    }
    if (!(difference <= 0.1 * largest))  // kernels and precisions differ by less, models by more
      throw WeightError(file, layer_key(i, "keys"), "of another model", "what this one makes of the conversation's first words");
  }
}

}  // namespace detail

CHIASM_INLINE void Conversation::save(const std::string& path) const {
  using detail::as_weight;
  std::vector<std::pair<std::string, std::string>> texts{
      {"format", std::string(detail::conversation_format)}, {"compute", std::string(name(prefix_.compute))}, {"isa", prefix_.isa}};
  std::vector<Weight> tensors;
  std::vector<Tensor> memory;
  for (std::size_t i = 0; i < prefix_.cache.layers(); ++i) {
    const KvCache::Layer& layer = prefix_.cache[i];
    Tensor& keys = memory.emplace_back(Shape{layer.length(), layer.key_width()});
    tensors.push_back(as_weight(detail::layer_key(i, "keys"), DType::f32, keys.shape(), keys.data()));
    Tensor& values = memory.emplace_back(Shape{layer.length(), layer.value_width()});
    tensors.push_back(as_weight(detail::layer_key(i, "values"), DType::f32, values.shape(), values.data()));
    layer.read(memory[2 * i], values);
  }
  tensors.push_back(as_weight("ids", DType::i32, Shape{prefix_.ids.size()}, prefix_.ids.data()));
  std::vector<std::int32_t> positions;  // of the pictures: begin, rows
  for (const PreparedPrompt::Picture& picture : prefix_.pictures)
    for (const std::size_t number : {picture.begin, picture.rows}) positions.push_back(static_cast<std::int32_t>(number));
  tensors.push_back(as_weight("pictures", DType::i32, Shape{positions.size() / 2, 2}, positions.data()));

  std::vector<const Image*> pictures;  // one that was shown again is stored once
  for (std::size_t i = 0; i < messages_.size(); ++i) {
    texts.emplace_back(detail::message_key(i, "role"), messages_[i].role);
    const std::vector<Prompt::Part>& parts = messages_[i].content.parts();
    for (std::size_t j = 0; j < parts.size(); ++j) {
      if (parts[j].frames().size() > 1) throw UnsupportedError("a video in a conversation that is saved");
      const Image* const image = parts[j].image().get();
      if (image == nullptr) {
        texts.emplace_back(detail::part_key(i, j, "text"), parts[j].text());
        continue;
      }
      const auto known = static_cast<std::size_t>(std::find(pictures.begin(), pictures.end(), image) - pictures.begin());
      texts.emplace_back(detail::part_key(i, j, "picture"), std::to_string(known));
      if (known < pictures.size()) continue;
      pictures.push_back(image);
      const Shape shape{static_cast<std::size_t>(image->height()), static_cast<std::size_t>(image->width()), 3};
      tensors.push_back(as_weight(detail::picture_key(known), DType::u8, shape, image->pixels().data()));
      if (const auto& colour = image->transparent())
        texts.emplace_back(detail::picture_key(known) + ".transparent",
                           std::to_string((*colour)[0]) + " " + std::to_string((*colour)[1]) + " " + std::to_string((*colour)[2]));
      if (!image->alpha().empty()) tensors.push_back(as_weight(detail::picture_key(known) + ".alpha", DType::u8, Shape{shape[0], shape[1]}, image->alpha().data()));
      if (image->indexed()) texts.emplace_back(detail::picture_key(known) + ".indexed", "true");
    }
  }
  write_safetensors(path, tensors, texts);
}

namespace detail {

/// Reads what Conversation::save writes.
class SavedConversation {
 public:
  explicit SavedConversation(const std::string& path) : file_(Safetensors::parse(FileMap::open(path))), path_(path) {
    if (!file_.metadata.is_object() || text("format") != conversation_format) refuse("no saved conversation ('format' is " + file_.metadata.find("format").dump(60) + ")");
    for (const Weight& tensor : file_.tensors) tensors_.emplace(tensor.name(), &tensor);
  }

  std::optional<std::string> text(const std::string& key) const {
    const Json value = file_.metadata.find(key);
    return value.is_string() ? std::optional(std::string(value.as_string())) : std::nullopt;
  }
  const Weight* find(const std::string& name) const {
    const auto tensor = tensors_.find(name);
    return tensor == tensors_.end() ? nullptr : tensor->second;
  }
  std::vector<std::int32_t> integers(const std::string& name, std::size_t rank) const {
    const Weight* const tensor = find(name);
    if (tensor == nullptr || tensor->dtype() != DType::i32 || tensor->shape().rank() != rank)
      throw WeightError(path_, name, tensor == nullptr ? "missing" : tensor->describe(), "i32 of " + std::to_string(rank) + " dimensions");
    std::vector<std::int32_t> values(tensor->shape().size());
    if (!values.empty()) std::memcpy(values.data(), tensor->data(), tensor->bytes());
    for (const std::int32_t value : values)
      if (value < 0) refuse("'" + name + "' has " + std::to_string(value));
    return values;
  }
  Tensor rows(const std::string& name, std::size_t count, std::size_t width) const {
    const Shape want{count, width};
    const Weight* const tensor = find(name);
    if (tensor == nullptr || tensor->dtype() != DType::f32 || tensor->shape() != want)
      throw WeightError(path_, name, tensor == nullptr ? "missing" : tensor->describe(), "f32 " + want.to_string());
    return tensor->to_f32();
  }
  std::shared_ptr<const Image> picture(const std::string& number) {
    auto& image = pictures_[number];
    if (image != nullptr) return image;
    const Weight* const tensor = find("picture." + number);
    if (tensor == nullptr || tensor->dtype() != DType::u8 || tensor->shape().rank() != 3 || tensor->shape()[2] != 3)
      throw WeightError(path_, "picture." + number, tensor == nullptr ? "missing" : tensor->describe(), "u8 (height, width, 3)");
    const std::size_t height = tensor->shape()[0], width = tensor->shape()[1];
    if (height > 0x7fffffff || width > 0x7fffffff) refuse("'picture." + number + "' is " + tensor->describe());
    const auto* const first = reinterpret_cast<const std::uint8_t*>(tensor->data());
    Image pixels(static_cast<int>(width), static_cast<int>(height), std::vector<std::uint8_t>(first, first + tensor->bytes()));
    if (const auto colour = text("picture." + number + ".transparent")) {
      int channels[3];
      if (std::sscanf(colour->c_str(), "%d %d %d", &channels[0], &channels[1], &channels[2]) != 3 ||
          std::any_of(channels, channels + 3, [](int c) { return c < 0 || c > 255; }))
        refuse("picture." + number + ".transparent is '" + colour->substr(0, 60) + "'");
      pixels.set_transparent(std::array{static_cast<std::uint8_t>(channels[0]), static_cast<std::uint8_t>(channels[1]), static_cast<std::uint8_t>(channels[2])});
    }
    if (const Weight* const alpha = find("picture." + number + ".alpha")) {
      if (alpha->dtype() != DType::u8 || alpha->shape() != Shape{height, width}) throw WeightError(path_, "picture." + number + ".alpha", alpha->describe(), "u8 (height, width)");
      const auto* const values = reinterpret_cast<const std::uint8_t*>(alpha->data());
      pixels.set_alpha(std::vector<std::uint8_t>(values, values + alpha->bytes()));
    }
    pixels.set_indexed(text("picture." + number + ".indexed") == "true");
    return image = std::make_shared<const Image>(std::move(pixels));
  }
  std::vector<Message> messages() {
    std::vector<Message> messages;
    while (const auto role = text(message_key(messages.size(), "role"))) {
      Message message{*role, {}};
      for (std::size_t j = 0;; ++j) {
        if (const auto said = text(part_key(messages.size(), j, "text"))) message.content << *said;
        else if (const auto shown = text(part_key(messages.size(), j, "picture"))) message.content << picture(*shown);
        else break;
      }
      messages.push_back(std::move(message));
    }
    return messages;
  }
  [[noreturn]] void refuse(const std::string& what) const { throw FormatError(path_, 8, what); }

 private:
  Safetensors file_;
  std::string path_;
  std::map<std::string_view, const Weight*> tensors_;
  std::map<std::string, std::shared_ptr<const Image>> pictures_;
};

}  // namespace detail

CHIASM_INLINE Conversation Conversation::restore(Pipeline pipeline, const std::string& path) {
  detail::SavedConversation file(path);
  Conversation conversation(std::move(pipeline));
  conversation.messages_ = file.messages();
  Prefix& prefix = conversation.prefix_;
  prefix.ids = file.integers("ids", 1);
  if (prefix.ids.empty()) return conversation;

  const LanguageModel& lm = conversation.pipeline_.language_model();
  Context ctx = conversation.pipeline_.new_context();
  for (const Compute compute : {Compute::bf16, Compute::i8})
    if (file.text("compute") == name(compute)) prefix.compute = compute;
  prefix.isa = file.text("isa").value_or("");
  std::vector<const Image*> shown;
  for (const Message& message : conversation.messages_)
    for (const Prompt::Part& part : message.content.parts())
      if (part.image()) shown.push_back(part.image().get());
  const std::vector<std::int32_t> positions = file.integers("pictures", 2);
  if (positions.size() % 2 != 0 || positions.size() / 2 > shown.size())
    file.refuse("positions of " + std::to_string(positions.size() / 2) + " pictures for " + std::to_string(shown.size()));
  std::size_t words = prefix.ids.size();  // before the first picture
  for (std::size_t i = 0; i < positions.size() / 2; ++i) {
    const auto begin = static_cast<std::size_t>(positions[2 * i]), rows = static_cast<std::size_t>(positions[2 * i + 1]);
    prefix.pictures.push_back({begin, rows, conversation.pipeline_.pictures().digest(ctx, *shown[i])});
    words = std::min(words, begin);
  }
  prefix.cache = lm.new_cache();
  for (std::size_t i = 0; i < prefix.cache.layers(); ++i) {
    KvCache::Layer& layer = prefix.cache[i];
    const Tensor keys = file.rows(detail::layer_key(i, "keys"), prefix.ids.size(), layer.key_width());
    const Tensor values = file.rows(detail::layer_key(i, "values"), prefix.ids.size(), layer.value_width());
    layer.append(ctx, keys, values);
  }
  const std::span<const TokenId> compared = std::span<const TokenId>(prefix.ids).first(std::min(words, detail::compared_positions));
  for (const TokenId id : compared)
    if (static_cast<std::size_t>(id) >= lm.vocab_size()) throw WeightError(path, "ids", "with token " + std::to_string(id), "at most " + std::to_string(lm.vocab_size() - 1));
  if (!compared.empty()) detail::compare_keys(ctx, lm, compared, prefix.cache, path);
  return conversation;
}

}  // namespace chiasm
