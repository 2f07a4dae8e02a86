/// complete: continues a text. A plain language model, no pictures.
#include "options.hpp"

int main(int count, char** arguments) {
  CLI::App app("Continues a text. Without arguments: the bundled story teller tells one.", "complete");
  examples::Options options(app, examples::bundled("models/stories260k"));
  options.add_generation(app);
  std::string text;
  app.add_option("text", text, "The beginning");
  return examples::run(app, count, arguments, [&] {
    if (!options.generate.max_new_tokens) options.generate.max_new_tokens = 256;
    const chiasm::Pipeline lm = options.load();
    chiasm::Context ctx = lm.new_context();
    const examples::Interrupt interrupt(ctx.cancel_token());
    if (!options.json) std::cout << text << std::flush;
    const chiasm::Reply reply = lm.complete(ctx, text, options.generation(), [&](std::string_view piece) {
      if (!options.json) std::cout << piece << std::flush;
      return true;
    });
    if (options.json) examples::print_json(examples::describe(reply));
    else std::cout << std::endl;
    return 0;
  });
}
