/// chat: a conversation about pictures, turn after turn.
#include "options.hpp"

#include <chiasm/io/image_file.hpp>

int main(int count, char** arguments) {
  CLI::App app("Talks about pictures. /image FILE shows one, /save FILE keeps the conversation, /load FILE goes on with one, /reset starts anew, /quit ends; "
               "Ctrl-C stops an answer.", "chat");
  examples::Options options(app, examples::bundled("models/shapes-llava"));
  options.add_style(app);
  options.add_generation(app);
  std::vector<std::string> shown;
  std::string system, saved;
  app.add_option("pictures", shown, "Pictures to begin with (by default a bundled one where the bundled model talks)");
  app.add_option("--system", system, "What the model is told before the first turn");
  app.add_option("--load", saved, "Go on with a conversation that was saved")->check(CLI::ExistingFile);
  return examples::run(app, count, arguments, [&] {
    if (shown.empty() && saved.empty() && options.model == examples::bundled("models/shapes-llava")) shown = {examples::bundled("pictures/shapes-02.png")};
    const chiasm::Pipeline vlm = options.load();
    chiasm::Conversation talk(vlm, system);
    chiasm::Prompt turn;  // pictures that the next question is about
    const auto show = [&] {
      for (const std::string& file : shown) turn << chiasm::load_image(file);
    };
    show();
    if (!saved.empty()) talk = chiasm::Conversation::restore(vlm, saved);
    const bool prompt_user = examples::is_terminal(0) && !options.json;
    if (prompt_user)
      for (const std::string& file : shown) std::cout << "(" << file << ")" << std::endl;
    for (std::string line;;) {
      if (prompt_user) std::cout << "> " << std::flush;
      if (!std::getline(std::cin, line) || line == "/quit") return 0;
      if (line.empty()) continue;
      try {
        if (line == "/reset") {
          talk = chiasm::Conversation(vlm, system);
          turn = {};
          show();
          continue;
        }
        if (line.starts_with("/save ")) {
          talk.save(line.substr(6));
          continue;
        }
        if (line.starts_with("/load ")) {
          talk = chiasm::Conversation::restore(vlm, line.substr(6));
          turn = {};
          continue;
        }
        if (line.starts_with("/image ")) {
          turn << chiasm::load_image(line.substr(7));
          continue;
        }
        chiasm::Prompt asked = turn;
        asked << line;
        chiasm::Context ctx = vlm.new_context();
        const examples::Interrupt interrupt(ctx.cancel_token());
        const chiasm::Reply reply = talk.ask(ctx, asked, options.generation(), [&](std::string_view piece) {
          if (!options.json) std::cout << piece << std::flush;
          return true;
        });
        turn = {};
        if (options.json) examples::print_json(examples::describe(reply));
        else std::cout << std::endl;
      } catch (const chiasm::Error& error) {  // the turn is taken back, the conversation goes on
        std::cerr << "chat: " << error.what() << std::endl;
      }
    }
  });
}
