/// README.md: its ```cpp blocks compile, whole programs among them run, and its ```sh blocks run.
///
/// A block without `main` is a fragment: its #include lines stay, the rest becomes the body of a function. A comment line
/// `<!-- given: C++ -->` in front of a block stands before a fragment's first statement; `<!-- not run: reason -->` lets a
/// program compile only, and leaves out an sh block. The first sh block is the quick start, which .ci/run runs.
#include "support/catch.hpp"
#include "structure/source_tree.hpp"

#include <build.hpp>

namespace {

struct Block {
  std::string language, code, given;
  std::size_t line = 0;
  bool is_run = true;
};

std::string between(const std::string& text, std::string_view begin, std::string_view end) {
  const std::size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  const std::size_t to = text.find(end, from);
  return text.substr(from + begin.size(), to - from - begin.size());
}

std::vector<Block> blocks_of(const std::string& text) {
  std::vector<Block> blocks;
  Block block;
  bool inside = false;
  std::size_t number = 0;
  for (const std::string& line : lines_of(text)) {
    ++number;
    if (line.rfind("```", 0) == 0) {
      if (inside) {
        blocks.push_back(block);
        block = Block{};
      } else {
        block.language = line.substr(3);
        block.line = number;
      }
      inside = !inside;
    } else if (inside) {
      block.code += line + "\n";
    } else if (line.rfind("<!-- given:", 0) == 0) {
      block.given = between(line, "<!-- given:", "-->");
    } else if (line.rfind("<!-- not run:", 0) == 0) {
      block.is_run = false;
    } else if (!line.empty()) {
      block = Block{};
    }
  }
  return blocks;
}

/// A translation unit from a block.
std::string unit_of(const Block& block) {
  if (block.code.find("int main(") != std::string::npos) return block.code;
  std::string head, body;
  for (const std::string& line : lines_of(block.code)) (line.rfind("#include", 0) == 0 ? head : body) += line + "\n";
  return "#include <chiasm/chiasm.hpp>\n#include <chiasm/io/image_file.hpp>\n#include <iostream>\n" + head +
         "using namespace chiasm;\nvoid fragment();\nvoid fragment() {\n" + block.given + "\n" + body + "}\n";
}

}  // namespace

TEST_CASE("C++ blocks compile, and whole programs run", "[readme]") {
  const std::string jpeg = has_jpeg ? " -ljpeg" : "";
  for (const Block& block : blocks_of(read_text(source_dir() + "/README.md"))) {
    if (block.language != "cpp") continue;
    const std::string name = std::string(scratch_dir) + "/readme/line_" + std::to_string(block.line);
    write_text(name + ".cpp", unit_of(block));
    const bool program = block.code.find("int main(") != std::string::npos;
    std::string command = std::string(compilers[0]) + " -std=c++20 -DCHIASM_COMPILED " + include_flags + " " + name + ".cpp ";
    command += program ? std::string("-O1 -o ") + name + " " + compiled_library + jpeg + " -pthread" : std::string("-fsyntax-only");
    if (program && block.is_run) command += " && cd " + source_dir() + " && " + name;
    const Result result = run(command);
    INFO("README.md, block at line " << block.line << "\n" << result.output);
    CHECK(result.status == 0);
  }
}

TEST_CASE("shell blocks run", "[readme]") {
  bool quick_start = true;
  for (const Block& block : blocks_of(read_text(source_dir() + "/README.md"))) {
    if (block.language != "sh") continue;
    if (!quick_start && block.is_run) {
      const Result result = run("set -e\ncd " + source_dir() + "\nexport CHIASM_BUILD_DIR=" + build_dir + "\n" + block.code);
      INFO("README.md, block at line " << block.line << "\n" << result.output);
      CHECK(result.status == 0);
    }
    quick_start = false;
  }
}
