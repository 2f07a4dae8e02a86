#include <chiasm/io/checkpoint.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const chiasm::Gguf file = chiasm::Gguf::parse(chiasm::FileMap(bytes));
    for (const chiasm::Gguf::Value& value : file.metadata()) {
      value.describe();
      for (std::size_t i = 0; i < value.size(); ++i) value[i].describe();
    }
    for (const chiasm::Weight& tensor : file.tensors())
      if (tensor.shape().size() <= (1u << 20)) tensor.to_f32();  // reads every byte that the list promised
  } catch (const chiasm::Error&) {
  }
  // As a model, alone and as its own tower.
  for (const bool sees : {false, true}) {
    try {
      std::vector<std::pair<std::string, std::span<const std::byte>>> files{{"model.gguf", bytes}};
      chiasm::CheckpointOptions options;
      if (sees) files.emplace_back(options.mmproj = "mmproj.gguf", bytes);
      const chiasm::Checkpoint checkpoint = chiasm::Checkpoint::from_memory(std::move(files), std::move(options));
      checkpoint.config();
      checkpoint.preprocessor_config();
      const chiasm::Weights weights = checkpoint.weights();
      for (const std::string& name : weights.names()) weights.get(name);
    } catch (const chiasm::Error&) {
    }
  }
  return 0;
}
