/// search: finds pictures by a text or by a picture, and sorts them into classes. Folders are indexed once, in a file; after that only what is new or
/// changed is encoded. Ctrl-C while it indexes keeps what has been done.
#include "options.hpp"
#include "pictures.hpp"

#include <chiasm/io/image_file.hpp>
#ifdef CHIASM_HAS_HNSWLIB
#include <chiasm/pipelines/hnsw_index.hpp>
#endif

#include <limits>
#include <set>

namespace fs = std::filesystem;

namespace {

/// How an index calls its pictures: those below the folder of its file by their place there, so that both may move together.
class Places {
 public:
  explicit Places(const std::string& index) {
    if (!index.empty()) folder_ = fs::absolute(index).lexically_normal().parent_path();
  }
  std::string stored(const std::string& path) const {
    if (folder_.empty()) return path;
    const fs::path whole = fs::absolute(path).lexically_normal(), inside = whole.lexically_relative(folder_);
    return (inside.empty() || *inside.begin() == ".." ? whole : inside).generic_string();
  }
  /// As a program in this folder would open it.
  std::string opened(const std::string& stored) const {
    if (folder_.empty()) return stored;
    const fs::path whole = (folder_ / stored).lexically_normal(), near = whole.lexically_relative(fs::current_path());
    return (near.empty() || *near.begin() == ".." ? whole : near).generic_string();
  }

 private:
  fs::path folder_;
};

/// Pictures in a folder and below it, in the order of their names.
std::vector<std::string> pictures_below(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder, fs::directory_options::skip_permission_denied))
    if (entry.is_regular_file() && examples::is_picture(entry.path())) files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

bool is_below(const std::string& path, const std::string& folder) {
  const fs::path inside = fs::absolute(path).lexically_normal().lexically_relative(fs::absolute(folder).lexically_normal());
  return !inside.empty() && *inside.begin() != "..";
}

/// A picture on its way into the index.
struct Reading {
  chiasm::PictureFile file;
  std::string path;
  bool known = false;                  // its content is in the index already
  std::optional<chiasm::Image> image;  // if it is not
  std::string error;
};

struct Update {
  std::size_t encoded = 0, known = 0, unchanged = 0, removed = 0, failed = 0;
  bool cancelled = false;
  nlohmann::ordered_json describe() const {
    return {{"encoded", encoded}, {"known", known}, {"unchanged", unchanged}, {"removed", removed}, {"failed", failed}, {"cancelled", cancelled}};
  }
};

class Indexer {
 public:
  Indexer(const chiasm::DualEncoder& encoder, chiasm::Context& ctx, chiasm::PictureIndex& index, const Places& places, std::string file)
      : encoder_(encoder), ctx_(ctx), index_(index), places_(places), file_(std::move(file)) {}

  /// Brings the index up to date with these files and folders.
  Update operator()(const std::vector<std::string>& paths) {
    std::set<std::string> seen;
    for (const std::string& path : paths)
      for (const std::string& file : fs::is_directory(path) ? pictures_below(path) : std::vector<std::string>{path}) look_at(file, seen);
    try {
      for (std::size_t begin = 0; begin < todo_.size(); begin += batch) {
        progress_(todo_[begin].path, begin, todo_.size());
        const std::span<Reading> part = std::span(todo_).subspan(begin, std::min(batch, todo_.size() - begin));
        read(part);
        encode(part);
        save_now_and_then();
      }
      // At the end: a picture that has another name now is known by its content until then.
      for (const chiasm::PictureFile& file : index_.files()) {
        const std::string path = places_.opened(file.path);
        if (seen.contains(file.path) || std::none_of(paths.begin(), paths.end(), [&](const std::string& folder) { return is_below(path, folder); })) continue;
        update_.removed += index_.remove(file.path);
      }
    } catch (const chiasm::Cancelled&) {
      update_.cancelled = true;
    }
    progress_.clear();
    const bool changed = update_.encoded + update_.known + update_.removed + update_.failed > 0;
    if (!file_.empty() && (changed || !fs::exists(file_))) index_.save(file_);
    return update_;
  }

 private:
  static constexpr std::size_t batch = 16;

  void look_at(const std::string& path, std::set<std::string>& seen) {
    std::error_code error;
    Reading reading;
    reading.path = path;
    reading.file.path = places_.stored(path);
    reading.file.size = fs::file_size(path, error);
    reading.file.modified = static_cast<std::int64_t>(fs::last_write_time(path, error).time_since_epoch().count());
    if (error || !seen.insert(reading.file.path).second) return;
    const chiasm::PictureFile* const known = index_.find(reading.file.path);
    if (known != nullptr && known->size == reading.file.size && known->modified == reading.file.modified) ++update_.unchanged;
    else todo_.push_back(std::move(reading));
  }

  void read(std::span<Reading> part) {
    ctx_.check_cancelled();
    ctx_.parallel(part.size(), 1, [&](std::size_t begin, std::size_t end) {
      for (Reading& reading : part.subspan(begin, end - begin)) {
        try {
          const chiasm::FileMap bytes = chiasm::FileMap::open(reading.path);
          reading.file.content = chiasm::PictureFile::digest(bytes.bytes());
          reading.known = index_.find(reading.file.content) != nullptr;
          if (!reading.known) reading.image = chiasm::load_image(bytes.bytes(), reading.path);
        } catch (const chiasm::Error& error) {
          reading.error = error.what();
        }
      }
    });
  }

  void encode(std::span<Reading> part) {
    std::vector<Reading*> fresh;
    for (Reading& reading : part)
      if (reading.image) fresh.push_back(&reading);
    try {
      if (!fresh.empty()) put(fresh);
    } catch (const chiasm::Cancelled&) {
      throw;
    } catch (const chiasm::Error&) {  // one bad picture must not take the others with it
      for (Reading* const reading : fresh) {
        try {
          put({reading});
        } catch (const chiasm::Cancelled&) {
          throw;
        } catch (const chiasm::Error& error) {
          reading->error = reading->path + ": " + error.what();
        }
      }
    }
    for (Reading& reading : part) {
      reading.image.reset();
      if (reading.known) update_.known += index_.put_known(std::move(reading.file));
      if (reading.error.empty()) continue;
      ++update_.failed;
      index_.remove(reading.file.path);
      progress_.clear();
      std::cerr << "search: " << reading.error << std::endl;
    }
  }

  void put(const std::vector<Reading*>& fresh) {
    std::vector<chiasm::Image> images;
    for (const Reading* const reading : fresh) images.push_back(*reading->image);
    const chiasm::Tensor embeddings = encoder_.embed(ctx_, images);  // (N, E) or (N, V, E)
    for (std::size_t i = 0; i < fresh.size(); ++i) index_.put(fresh[i]->file, embeddings.view()[i]);
    update_.encoded += fresh.size();
  }

  void save_now_and_then() {
    if (file_.empty() || std::chrono::steady_clock::now() - saved_ < std::chrono::seconds(30)) return;
    index_.save(file_);
    saved_ = std::chrono::steady_clock::now();
  }

  const chiasm::DualEncoder& encoder_;
  chiasm::Context& ctx_;
  chiasm::PictureIndex& index_;
  const Places& places_;
  std::string file_;
  std::vector<Reading> todo_;
  Update update_;
  examples::Progress progress_{"indexing"};
  std::chrono::steady_clock::time_point saved_ = std::chrono::steady_clock::now();
};

/// Pictures and captions: of a data set as evaluate takes it (images/<id>.png and captions.json), or as few_shot takes demonstrations. Of equal captions the
/// first stays: a search cannot tell the others apart.
std::vector<chiasm::DemonstrationFile> captioned(const std::string& path, std::size_t most) {
  std::vector<chiasm::DemonstrationFile> all, distinct;
  if (fs::exists(path + "/captions.json")) {
    for (const chiasm::Json picture : chiasm::Json::read(path + "/captions.json"))
      all.push_back({path + "/images/" + std::to_string(all.size()) + ".png", {}, std::string(picture["caption"].as_string())});
  } else {
    all = chiasm::DemonstrationFile::read(path);
  }
  std::set<std::string> captions;
  for (const chiasm::DemonstrationFile& one : all)
    if (distinct.size() < most && captions.insert(one.answer).second) distinct.push_back(one);
  return distinct;
}

/// How often a picture is among the first that its caption finds.
int recall(const chiasm::DualEncoder& encoder, chiasm::Context& ctx, chiasm::PictureIndex& index, const std::vector<chiasm::DemonstrationFile>& pictures,
           bool json) {
  std::vector<std::string> paths;
  for (const chiasm::DemonstrationFile& picture : pictures) paths.push_back(picture.image);
  if (const Update update = Indexer(encoder, ctx, index, Places(""), "")(paths); update.cancelled || update.failed > 0) return 1;
  constexpr std::size_t depths[] = {1, 5, 10}, batch = 64;
  std::size_t right[std::size(depths)] = {};
  for (std::size_t begin = 0; begin < pictures.size(); begin += batch) {
    std::vector<std::string> captions;
    for (std::size_t i = begin; i < std::min(begin + batch, pictures.size()); ++i) captions.push_back(pictures[i].answer);
    const auto found = index.vectors().search(ctx, encoder.embed(ctx, captions), 10);
    for (std::size_t i = 0; i < captions.size(); ++i)
      for (std::size_t rank = 0; rank < found[i].size(); ++rank)
        if (index.path(found[i][rank].id) == pictures[begin + i].image)
          for (std::size_t d = 0; d < std::size(depths); ++d) right[d] += rank < depths[d];
  }
  for (std::size_t d = 0; d < std::size(depths); ++d) {
    const double percent = 100.0 * static_cast<double>(right[d]) / static_cast<double>(std::max<std::size_t>(pictures.size(), 1));
    if (json) examples::print_json({{"recall_at", depths[d]}, {"right", right[d]}, {"captions", pictures.size()}, {"percent", percent}});
    else std::printf("recall@%zu: %zu of %zu captions, %.1f %%\n", depths[d], right[d], pictures.size(), percent);
  }
  return 0;
}

#ifdef CHIASM_HAS_HNSWLIB
/// The graph beside an index, brought up to date with it.
chiasm::HnswIndex graph_of(chiasm::Context& ctx, const chiasm::PictureIndex& index, const std::string& file) {
  std::optional<chiasm::HnswIndex> graph;
  try {
    if (!file.empty() && fs::exists(file)) graph = chiasm::HnswIndex::load(file);
    if (graph && graph->dim() != index.vectors().dim()) graph.reset();
  } catch (const chiasm::FormatError&) {  // all that is in it can be made again
  }
  if (!graph) graph.emplace(index.vectors().dim());
  examples::Progress progress("linking");
  chiasm::Context linking(ctx.pool(), {.isa = ctx.isa(),
                                       .cancel = ctx.cancel_token(),
                                       .on_progress = [&](std::string_view, std::size_t done, std::size_t total) { progress("", done, total); }});
  if (graph->follow(linking, index.vectors()) > 0 && !file.empty()) graph->save(file);
  return std::move(*graph);
}
#endif

}  // namespace

int main(int count, char** arguments) {
  CLI::App app("Finds pictures by a text or by a picture. With folders: indexes the pictures in them and below, and keeps the index in a file where "
               "--index names one. Without arguments: looks for an orange triangle in the bundled pictures.", "search");
  examples::Options options(app, examples::bundled("models/shapes-clip"));
  std::vector<std::string> words, labels, templates;
  std::string index_file, picture, test_set;
  std::size_t k = 5, rerank = 0, most = std::numeric_limits<std::size_t>::max();
  bool fresh = false, approximate = false;
  app.add_option("what", words, "Pictures and folders to index, and a text to look for");
  app.add_option("-i,--index", index_file, "The index's file: made if it is not there, brought up to date with the folders that are given");
  app.add_flag("--fresh", fresh, "Make the index anew");
  auto* const by_picture = app.add_option("-p,--picture", picture, "Look for pictures like this one")->check(CLI::ExistingFile);
  app.add_option("-k", k, "How many to show")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_flag("--approximate", approximate, "Search in a graph (hnswlib) instead of everywhere: for a million pictures and more. It is kept beside the index");
  app.add_option("--rerank", rerank, "Look at so many of the best again, together with the text (models that can: BLIP-2's)");
  auto* const classify = app.add_option("--classify", labels, "Sort the pictures into these classes, as in red,green,blue")
                             ->delimiter(',')->allow_extra_args(false)->excludes(by_picture);
  app.add_option("--template", templates, "What to call a picture of a class, as in \"a photo of a {}\" (may be given several times)")
      ->allow_extra_args(false)
      ->needs(classify);
  auto* const test_option =
      app.add_option("--recall", test_set, "Count how often a caption finds its picture: a folder with captions.json, or with cat.jpg and cat.txt, or JSON lines")
          ->check(CLI::ExistingPath);
  app.add_option("--first", most, "Take only the first so many of the test set, of which no two captions are equal")
      ->needs(test_option)
      ->check(CLI::PositiveNumber);
  return examples::run(app, count, arguments, [&] {
    std::vector<std::string> paths;
    std::optional<std::string> text;
    for (const std::string& word : words) {
      if (fs::exists(word)) {
        paths.push_back(word);
      } else {
        const bool is_name = word.find('/') != std::string::npos || examples::is_picture(word);
        const std::string missing = "there is no such file or folder";
        if (is_name) throw chiasm::FileError(word, missing);
        if (text) throw chiasm::FileError(word, missing + ", and the text to look for is '" + *text + "'");
        text = word;
      }
    }
    if (!test_set.empty() && (!words.empty() || !index_file.empty()))
      throw chiasm::ArgumentError("--recall makes an index of its own: no folders, texts and --index with it");
    if (paths.empty() && index_file.empty() && test_set.empty()) {
      paths = {examples::bundled("pictures")};
      if (!text && picture.empty() && labels.empty()) text = "an orange triangle";
    }
    if (text && (!picture.empty() || !labels.empty()))
      throw chiasm::ArgumentError("a text to look for together with --picture or --classify: one of them at a time");
    if (paths.empty() && test_set.empty() && !fs::exists(index_file))
      throw chiasm::FileError(index_file, "there is no such index, and no folder is given to make it of");
    if (templates.empty()) templates = {"{}"};

    examples::Progress loading("loading");
    const chiasm::Checkpoint checkpoint = chiasm::Checkpoint::open(options.model);
    const chiasm::ModelIdentity model = chiasm::ModelIdentity::of(checkpoint);
    std::optional<chiasm::PictureIndex> index;
    if (!fresh && !index_file.empty() && fs::exists(index_file)) {
      index = chiasm::PictureIndex::load(index_file);
      try {
        index->expect_model(model, index_file);
      } catch (const chiasm::ArgumentError& error) {
        throw chiasm::ArgumentError(std::string(error.what()) + " (--model, --fresh)");
      }
    }
    const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(options.model, options.loading(loading));
    loading.clear();
    chiasm::Context ctx = encoder.new_context();
    const examples::Interrupt interrupt(ctx.cancel_token());
    if (!index) index.emplace(model, encoder.embed(std::string("a picture")).columns());

    if (!test_set.empty()) return recall(encoder, ctx, *index, captioned(test_set, most), options.json);
    const Places places(index_file);
    int status = 0;
    if (!paths.empty()) {
      const Update update = Indexer(encoder, ctx, *index, places, index_file)(paths);
      if (update.failed > 0 || update.cancelled) status = 1;
      if (update.cancelled) std::cerr << "search: stopped after " << update.encoded << " pictures; the same command goes on" << std::endl;
      if (update.cancelled || (!text && picture.empty() && labels.empty())) {
        nlohmann::ordered_json line = {{"index", index_file}, {"pictures", index->size()}};
        line.update(update.describe());
        if (options.json) examples::print_json(line);
        else
          std::cout << index->size() << " pictures: " << update.encoded << " encoded, " << update.unchanged + update.known << " known, " << update.removed
                    << " removed, " << update.failed << " failed" << std::endl;
        return status;
      }
    }

    if (!labels.empty()) {
      const chiasm::Tensor classes = encoder.embed_labels(ctx, labels, templates);
      for (const std::uint64_t id : index->vectors().ids()) {
        const chiasm::Tensor probability = encoder.probabilities(ctx, index->vectors().vectors(id), classes);  // (1, labels)
        const std::size_t best = static_cast<std::size_t>(std::max_element(probability.data(), probability.data() + labels.size()) - probability.data());
        const std::string path = places.opened(index->path(id));
        if (options.json) {
          nlohmann::ordered_json line = {{"image", path}, {"label", labels[best]}, {"probabilities", nlohmann::ordered_json::object()}};
          for (std::size_t i = 0; i < labels.size(); ++i) line["probabilities"][labels[i]] = probability.data()[i];
          examples::print_json(line);
        } else {
          std::printf("%s: %s (%.3f)\n", path.c_str(), labels[best].c_str(), static_cast<double>(probability.data()[best]));
        }
      }
      return status;
    }
    if (!text && picture.empty()) {
      if (options.json) examples::print_json({{"index", index_file}, {"pictures", index->size()}, {"model", index->model().name}});
      else std::cout << index->size() << " pictures, embedded by " << index->model().name << std::endl;
      return status;
    }

    const std::vector<std::string> query{text.value_or("")};
    const chiasm::Tensor wanted = text ? encoder.embed(ctx, query) : encoder.embed(chiasm::load_image(picture));
    const std::size_t candidates = std::max(k, rerank);
    std::vector<chiasm::PictureIndex::Found> found;
    if (approximate) {
#ifdef CHIASM_HAS_HNSWLIB
      const std::string graph_file = index_file.empty() ? "" : index_file + ".hnsw";
      found = index->search(ctx, graph_of(ctx, *index, graph_file), wanted, candidates);
#else
      throw chiasm::UnsupportedError("--approximate: this program was built without hnswlib");
#endif
    } else {
      found = index->search(ctx, wanted, candidates);
    }
    if (rerank > 0) {
      if (!text) throw chiasm::ArgumentError("--rerank without a text");
      found.resize(std::min(found.size(), rerank));
      for (auto& [path, score] : found) score = encoder.match(ctx, chiasm::load_image(places.opened(path)), query).front();
      std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
    }
    for (std::size_t i = 0; i < std::min(found.size(), k); ++i) {
      const std::string path = places.opened(found[i].path);
      if (options.json) examples::print_json({{"rank", i + 1}, {"image", path}, {"score", found[i].score}});
      else std::printf("%.4f %s\n", static_cast<double>(found[i].score), path.c_str());
    }
    return status;
  });
}
