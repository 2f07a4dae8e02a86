#include <chiasm/io/chat_template.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"

#include <fstream>
#include <iterator>
#include <map>

using chiasm::ChatMessage;
using chiasm::ChatTemplate;
using chiasm::ContentForm;
using chiasm::Json;
using chiasm::RenderOptions;
using chiasm::TemplateError;
using chiasm::TemplateValue;

namespace {

std::string read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE(stream.good());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::vector<Json> read_lines(const std::string& path) {
  std::vector<Json> lines;
  std::ifstream stream(path, std::ios::binary);
  REQUIRE(stream.good());
  for (std::string line; std::getline(stream, line);)
    if (!line.empty()) lines.push_back(Json::parse(line, path));
  return lines;
}

// The reference was rendered at this moment: 2025-01-15T12:34:56.
RenderOptions at_reference_time() {
  RenderOptions options;
  std::tm now{};
  now.tm_year = 125, now.tm_mon = 0, now.tm_mday = 15, now.tm_hour = 12, now.tm_min = 34, now.tm_sec = 56;
  options.now = now;
  return options;
}

// The output, or none where rendering (or parsing) is an error that is not "unsupported".
std::optional<std::string> render(std::string_view source, const TemplateValue& variables, std::string& error) {
  try {
    return ChatTemplate(source).render(variables, at_reference_time());
  } catch (const chiasm::TemplateError& e) {
    error = e.what();
  } catch (const chiasm::FormatError& e) {
    error = e.what();
  }
  return std::nullopt;
}
std::string render(std::string_view source, const TemplateValue& variables = TemplateValue::dict()) {
  return ChatTemplate(source).render(variables, at_reference_time());
}

void check_rendered(const std::string& folder) {
  const Json conversations = Json::read(folder + "/conversations.json"), templates = Json::read(folder + "/templates.json");
  std::map<std::string, std::string> sources;
  for (const Json& line : read_lines(folder + "/rendered.jsonl")) {
    const std::string name(line["template"].as_string());
    if (!sources.count(name)) sources[name] = read(folder + "/templates/" + name + ".jinja");
    INFO(name << ", " << line["conv"].as_string() << ", tools " << line["tools"].as_bool());
    const Json facts = templates[name];
    const TemplateValue variables = TemplateValue::dict({
        {"messages", conversations["conversations"][line["conv"].as_string()]},
        {"tools", line["tools"].as_bool() ? TemplateValue(conversations["tools"]) : TemplateValue()},
        {"documents", nullptr},
        {"add_generation_prompt", line["add_generation_prompt"].as_bool()},
        {"bos_token", facts["bos_token"]},
        {"eos_token", facts["eos_token"]},
        {"pad_token", "<pad>"},
        {"unk_token", "<unk>"},
        {"date_string", conversations["date_string"]},
    });
    std::string error;
    const std::optional<std::string> text = render(sources[name], variables, error);
    INFO(error);
    CHECK(text.has_value() == line.contains("out"));
    if (text && line.contains("out")) CHECK(*text == line["out"].as_string());
  }
}

}  // namespace

TEST_CASE("every construct renders as Jinja 3.1.6 does under transformers' settings") {
  const std::vector<Json> lines = read_lines(test_data("chat/snippets.jsonl"));
  const TemplateValue variables(lines.at(0)["variables"]);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const std::string source(lines[i]["template"].as_string());
    INFO(source);
    std::string error;
    const std::optional<std::string> text = render(source, variables, error);
    INFO(error);
    CHECK(text.has_value() == lines[i].contains("out"));
    if (text && lines[i].contains("out")) CHECK(*text == lines[i]["out"].as_string());
  }
}

TEST_CASE("published templates render as transformers does") {
  check_rendered(test_data("chat"));
  if (const auto all = shared_data("io/chat")) check_rendered(*all);
}

TEST_CASE("checkpoint folders: which file holds the template") {
  const auto folder = [](const char* name) { return test_data(std::string("chat/folders/") + name); };
  const TemplateValue none = TemplateValue::dict();
  CHECK(ChatTemplate::from_folder(folder("jinja")).render(none) == "from chat_template.jinja");
  CHECK(ChatTemplate::from_folder(folder("jinja"), "tool_use").render(none) == "from additional_chat_templates");
  CHECK(ChatTemplate::from_folder(folder("json")).render(none) == "from chat_template.json");
  CHECK(ChatTemplate::from_folder(folder("processor")).render(none) == "from processor_config.json");
  CHECK(ChatTemplate::from_folder(folder("named")).render(none) == "default of the list");
  CHECK(ChatTemplate::from_folder(folder("named"), "tool_use").render(none) == "tool_use of the list");
  CHECK_THROWS_AS(ChatTemplate::find(folder("named"), "rag"), chiasm::ConfigError);
  CHECK_FALSE(ChatTemplate::find(folder("nothing")).has_value());
  CHECK_THROWS_AS(ChatTemplate::from_folder(folder("nothing")), chiasm::FileError);
  CHECK_THROWS_AS(ChatTemplate::find(folder("jinja"), "../jinja/chat_template"), chiasm::ArgumentError);
}

TEST_CASE("messages in both forms, and which one a template takes") {
  const std::vector<ChatMessage> conversation = {{"system", {{"text", "Look well."}}},
                                                 {"user", {{"image", ""}, {"text", "What?"}}}};
  const TemplateValue parts = make_messages(conversation, ContentForm::parts),
                      text = make_messages(conversation, ContentForm::text, "<image>\n");
  const std::string dump = "{{ messages|tojson }}";
  CHECK(
      render(dump, TemplateValue::dict({{"messages", parts}})) ==
      R"([{"role": "system", "content": [{"type": "text", "text": "Look well."}]}, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}])");
  CHECK(render(dump, TemplateValue::dict({{"messages", text}})) ==
        R"([{"role": "system", "content": "Look well."}, {"role": "user", "content": "<image>\nWhat?"}])");

  CHECK(ChatTemplate("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}").content_form() == ContentForm::text);
  CHECK(ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").content_form() == ContentForm::text);
  CHECK(ChatTemplate("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}").content_form() ==
        ContentForm::parts);
  if (const auto all = shared_data("io/chat/templates")) {
    for (const char* name : {"llava-1.5-hf", "qwen2.5-vl", "gemma-3", "smolvlm-A1maan", "mistralrs-idefics3"}) {
      INFO(name);
      CHECK(ChatTemplate(read(*all + "/" + name + ".jinja")).content_form() == ContentForm::parts);
    }
    for (const char* name : {"mistralrs-chatml", "microsoft-Phi-3.5-mini-instruct", "Qwen-Qwen2.5-7B-Instruct"}) {
      INFO(name);
      CHECK(ChatTemplate(read(*all + "/" + name + ".jinja")).content_form() == ContentForm::text);
    }
  }
}

TEST_CASE("values: built by hand, from JSON, shared and changed") {
  TemplateValue message = TemplateValue::dict({{"role", "user"}, {"content", std::string("Hi")}});
  const TemplateValue before = message;
  message.set("content", 3.5).set("n", 7).set("flag", true);
  CHECK(render("{{ a }} {{ b }}", TemplateValue::dict({{"a", before}, {"b", message}})) ==
        "{'role': 'user', 'content': 'Hi'} {'role': 'user', 'content': 3.5, 'n': 7, 'flag': True}");
  TemplateValue list = TemplateValue::list({1, "x", nullptr});
  const TemplateValue short_list = list;
  list.append(list);
  CHECK(render("{{ a }} {{ b }}", TemplateValue::dict({{"a", short_list}, {"b", list}})) ==
        "[1, 'x', None] [1, 'x', None, [1, 'x', None]]");

  TemplateValue wide = TemplateValue::dict();
  for (int i = 0; i < 100; ++i) wide.set("k" + std::to_string(i), i);
  const TemplateValue wide_before = wide;
  wide.set("k50", "changed");
  CHECK(render("{{ a.k50 }} {{ b.k50 }} {{ b|length }} {{ b.k100 is defined }}",
               TemplateValue::dict({{"a", wide_before}, {"b", wide}})) == "50 changed 100 False");

  CHECK_THROWS_AS(TemplateValue(1).append(2), chiasm::ArgumentError);
  CHECK_THROWS_AS(TemplateValue().set("a", 1), chiasm::ArgumentError);
  CHECK_THROWS_AS(TemplateValue(std::uint64_t{1} << 63), chiasm::ArgumentError);
  CHECK_THROWS_AS(ChatTemplate("x").render(TemplateValue::list()), chiasm::ArgumentError);
  TemplateValue deep = TemplateValue::list();
  CHECK_THROWS_AS(
      [&] {
        for (int i = 0; i < 100000; ++i) deep = TemplateValue::list({deep});
      }(),
      chiasm::ArgumentError);
}

TEST_CASE("errors say where and what") {
  const TemplateValue none = TemplateValue::dict();
  const auto failing = [&](const char* source) {
    try {
      (void)ChatTemplate(source, "m/chat_template.jinja").render(none);
    } catch (const chiasm::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(failing("a\nb{{ x.y }}") == "m/chat_template.jinja: line 2: 'x' is undefined");
  CHECK(failing("\n\n{{ 'a' + 1 }}") == "m/chat_template.jinja: line 3: operands do not fit: str + int");
  CHECK(failing("a\n{% if x %}") ==
        "m/chat_template.jinja: byte 12: line 2: the template ends where 'elif' or 'else' or 'endif' is expected");
  CHECK(failing("{% include 'x' %}") == "not supported: m/chat_template.jinja: line 1: tag 'include'");
  CHECK(failing("\n{{ 'x'|wordwrap }}") == "not supported: m/chat_template.jinja: line 2: filter 'wordwrap'");
  CHECK_THROWS_AS(ChatTemplate("{% if %}"), chiasm::FormatError);
  CHECK_THROWS_AS(ChatTemplate("{% include 'x' %}"), chiasm::UnsupportedError);
  try {
    (void)ChatTemplate("{{ raise_exception('Conversation roles must alternate') }}").render(none);
    FAIL("no exception");
  } catch (const TemplateError& error) {
    CHECK(error.raised);
    CHECK(error.reason == "Conversation roles must alternate");
    CHECK(error.line == 1);
  }
}

TEST_CASE("hostile templates end in an error") {
  const char* templates[] = {
      "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
      "{{ 'a' * 1000000000000 }}",
      "{{ [0] * 1000000000000 }}",
      "{{ 2 ** 100000000000 }}",
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=[0]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=[0]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}",
      ("{% set ns = namespace(s=[0], t=[0]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] "
       "%}{% endfor %}{{ ns.s == ns.t }}"),
      "{% set ns = namespace(s=[0]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
      "{% set ns = namespace(s=[0]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
      "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
      "{{ 'x'.center(100000000000) }}{{ '%1000000000d' % 1 }}",
      "{{ '%.1000000f' % 1 }}",
      "{{ [1]|batch(99999999999)|list }}",
      "{{ [1,2]|tojson(indent=10000000000) }}",
      "{{ 'a'.replace('', 'b' * 1000).replace('', 'c' * 1000).replace('', 'd' * 1000) }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ -(-9223372036854775807 - 1) }}",
      "{{ 9223372036854775807 + 1 }}",
  };
  for (const char* source : templates) {
    INFO(source);
    CHECK_THROWS_AS(render(source), TemplateError);
  }
  CHECK(render("{{ (-9223372036854775807 - 1) % -1 }}") == "0");

  const auto repeated = [](const std::string& open, const std::string& middle, const std::string& close, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += open;
    text += middle;
    for (int i = 0; i < times; ++i) text += close;
    return text;
  };
  for (const std::string& source :
       {repeated("{{ (", "1", "", 1) + repeated("(", "1", ")", 50000) + ") }}", "{{ " + repeated("[", "", "]", 50000) + " }}",
        "{{ " + repeated("not ", "1", "", 50000) + " }}", "{{ " + repeated("-", "1", "", 50000) + " }}",
        "{{ 1" + repeated("+1", "", "", 50000) + " }}", "{{ a" + repeated(".b", "", "", 50000) + " }}",
        "{{ a" + repeated("|e", "", "", 50000) + " }}", "{{ a" + repeated(" if a else a", "", "", 50000) + " }}",
        repeated("{% if a %}", "", "{% endif %}", 50000), "{% set " + repeated("(", "a", ")", 50000) + " = 1 %}"}) {
    INFO(source.substr(0, 40));
    CHECK_THROWS_AS(ChatTemplate(source), chiasm::FormatError);
  }

  RenderOptions small;
  small.max_steps = 100;
  CHECK_THROWS_AS(ChatTemplate("{% for i in range(90) %}{{ i }}{% endfor %}").render(TemplateValue::dict(), small),
                  TemplateError);
  RenderOptions brief;
  brief.max_bytes = 10;
  CHECK(ChatTemplate("0123456789").render(TemplateValue::dict(), brief).size() == 10);
  CHECK_THROWS_AS(ChatTemplate("01234567890").render(TemplateValue::dict(), brief), TemplateError);
}

TEST_CASE("ill-formed UTF-8 in a message passes through unharmed") {
  const std::string bytes = "a\xff\xe4\xb8 b\xf0\x9f\x98";
  const TemplateValue variables = TemplateValue::dict({{"x", bytes}});
  CHECK(render("{{ x }}", variables) == bytes);
  CHECK(render("{{ x.strip()[::-1][::-1] }}{{ x|upper|length }}", variables) == bytes + "9");
  CHECK(render("{{ x|lower }}", variables) == bytes);
}
