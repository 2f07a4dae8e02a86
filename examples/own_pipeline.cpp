/// own_pipeline: a vision tower, a projector and a language model, wired by hand. Usage: own_pipeline [PICTURE [QUESTION]]
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

int main(int count, char** arguments) try {
  using namespace chiasm;
  const std::string examples = CHIASM_EXAMPLES_DIR;
  const std::string picture = count > 1 ? arguments[1] : examples + "/pictures/shapes-03.png";
  const std::string question = count > 2 ? arguments[2] : "Describe the picture.";

  // The parts. Here they come out of one checkpoint; each could be another's.
  const Checkpoint checkpoint = Checkpoint::open(examples + "/models/shapes-llava");
  const Weights w = checkpoint.weights();
  const Json config = checkpoint.config();
  const Vit see(w / "vision_tower" / "vision_model", VitConfig::from(config["vision_config"]));
  const Llama speak(w / "language_model", LlamaConfig::from(config["text_config"]));
  const Projector project(w / "multi_modal_projector", see.config().hidden_size, speak.hidden_size(), Activation::gelu, true);
  const ImageProcessor pixels = ImageProcessor::from_json(checkpoint.preprocessor_config());
  const Tokenizer words = Tokenizer::load(checkpoint.name());

  // The wiring: the last block but one sees, the class token stays behind, the picture stands between two pieces of text.
  Context ctx;
  const int layer[] = {-2};
  const Tensor seen = see.hidden_states(ctx, pixels(load_image(picture)).pixel_values, layer);  // (1, 1 + patches, D)
  const Tensor image = project(ctx, seen.view()[0].slice(1, seen.shape()[1] - 1));              // (patches, D)
  const Tensor before = speak.embed(ctx, words.encode("USER: "));
  const Tensor after = speak.embed(ctx, words.encode("\n" + question + " ASSISTANT:", false));

  Generation answer(ctx, speak, concat(ctx, {before, image, after}), GenerateOptions::from(checkpoint.generation_config()));
  TokenStream text(words);
  while (const auto token = answer.next())
    if (const auto piece = text.push(*token)) std::cout << *piece << std::flush;
  std::cout << text.flush() << std::endl;
} catch (const std::exception& error) {
  std::cerr << "own_pipeline: " << error.what() << std::endl;
  return 1;
}
