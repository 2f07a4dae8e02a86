// Header-only in two translation units with different instruction sets.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

std::string answer(const chiasm::Pipeline& vlm, const chiasm::Image& image, const char* question);

int main(int, char** arguments) {
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: " << answer(vlm, chiasm::load_image(arguments[2]), arguments[3]) << "\n";
}
