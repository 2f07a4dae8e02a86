/// Chat templates: parsing one, and rendering conversations of 2 to 512 turns with it.
#include <chiasm/io/chat_template.hpp>

#include <benchmark/benchmark.h>

#include <fstream>
#include <iterator>

using namespace chiasm;

namespace {

std::string source(const char* name) {
  std::ifstream stream(std::string(CHIASM_SOURCE_DIR) + "/tests/golden/chat/templates/" + name + ".jinja", std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void parse(benchmark::State& state, const char* name) {
  const std::string text = source(name);
  for (auto _ : state) benchmark::DoNotOptimize(ChatTemplate(text));
}

void render(benchmark::State& state, const char* name) {
  const ChatTemplate chat(source(name));
  std::vector<ChatMessage> conversation;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    conversation.push_back(
        {i % 2 == 0 ? "user" : "assistant",
         {{"text", "Some twenty words of text, give or take, stand for what people and machines say to each other in a turn."}}});
    if (i == 0) conversation[0].parts.insert(conversation[0].parts.begin(), {"image", ""});
  }
  const TemplateValue variables =
      TemplateValue::dict({{"messages", make_messages(conversation, ContentForm::parts)}, {"add_generation_prompt", true}});
  std::size_t bytes = 0;
  for (auto _ : state) bytes += chat.render(variables).size();
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
}

}  // namespace

BENCHMARK_CAPTURE(parse, llava, "llava-1.5-hf");
BENCHMARK_CAPTURE(parse, qwen2_5_vl, "qwen2.5-vl");
BENCHMARK_CAPTURE(render, llava, "llava-1.5-hf")->Arg(2)->Arg(32)->Arg(512);
BENCHMARK_CAPTURE(render, qwen2_5_vl, "qwen2.5-vl")->Arg(2)->Arg(32)->Arg(512);
