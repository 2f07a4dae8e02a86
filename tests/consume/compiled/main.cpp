// The installed package, the compiled flavour.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>
#ifdef CHIASM_HAS_HNSWLIB
#include <chiasm/pipelines/hnsw_index.hpp>
#endif

#include <iostream>

int main(int, char** arguments) {
#ifdef CHIASM_HAS_HNSWLIB
  if (chiasm::HnswIndex(4).size() != 0) return 1;
#endif
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: ";
  vlm.answer(chiasm::load_image(arguments[2]), arguments[3], {}, [](std::string_view piece) {
    std::cout << piece;
    return true;
  });
  std::cout << "\n";
}
