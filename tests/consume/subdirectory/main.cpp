// The source tree as a subfolder of one's own; the library's headers under one's own warning flags.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

int main(int, char** arguments) {
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: " << vlm.answer(chiasm::load_image(arguments[2]), arguments[3]) << "\n";
}
