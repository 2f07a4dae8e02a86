// The installed package, the compiled flavour.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

int main(int, char** arguments) {
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: ";
  vlm.answer(chiasm::load_image(arguments[2]), arguments[3], {}, [](std::string_view piece) {
    std::cout << piece;
    return true;
  });
  std::cout << "\n";
}
