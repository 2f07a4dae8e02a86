// libFuzzer target: any bytes as a chat template, rendered with a small conversation. Only chiasm::Error may come out.
#include <chiasm/io/chat_template.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using chiasm::TemplateValue;
  static const TemplateValue variables(chiasm::Json::parse(R"({
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "W\u00e9ll?\n"}]},
                 {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [2.5, null, true]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"properties": {"a": {"type": "integer"}}}}}],
    "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "s": "abc", "n": 3, "l": [3, 1, 2], "d": {"k": "v"}})"));
  chiasm::RenderOptions options;
  options.max_steps = 20000;
  options.max_bytes = 1 << 16;
  try {
    (void)chiasm::ChatTemplate(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz").render(variables, options);
  } catch (const chiasm::Error&) {
  }
  return 0;
}
