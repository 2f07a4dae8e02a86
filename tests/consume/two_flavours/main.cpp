// Both flavours in one program: their symbols differ.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

std::string quote(const char* text);

int main(int, char** arguments) {
  if (quote("chiasm") != chiasm::Json::parse("[\"chiasm\"]").at(0).dump()) return 1;
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: " << vlm.answer(chiasm::load_image(arguments[2]), arguments[3]) << "\n";
}
