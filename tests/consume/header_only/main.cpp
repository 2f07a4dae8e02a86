// The installed package, headers alone.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

int main(int, char** arguments) {
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: " << vlm.answer(chiasm::load_image(arguments[2]), arguments[3]) << "\n";
}
