// Jinja's evaluator: one Run renders one template once. Everything that the template can make is counted against the
// steps of RenderOptions, so a hostile template ends in an error.
#pragma once

#include <chiasm/impl/jinja_parser.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

struct Scope;
using ScopePtr = std::shared_ptr<Scope>;
struct Scope {
  ScopePtr parent;
  std::vector<std::pair<std::uint32_t, Value>> values;
  explicit Scope(ScopePtr outer) : parent(std::move(outer)) {}
  Value* find(std::uint32_t name) {
    for (auto& [number, value] : values)
      if (number == name) return &value;
    return nullptr;
  }
  void set(std::uint32_t name, Value value) {
    if (Value* old = find(name))
      *old = std::move(value);
    else
      values.emplace_back(name, std::move(value));
  }
};

struct Macro {
  const Stmt* statement;  // a macro, or a call block
  ScopePtr scope;
  std::string name;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The state of a `for`; its elements pass the loop's `if` one by one, as late as Python's generator would test them.
struct Loop {
  const Stmt* statement;
  ScopePtr scope;
  std::vector<Value> items;
  std::size_t at = 0;  // first element not yet looked at
  bool filtered = false;
  std::int64_t index0 = -1, depth0 = 0;
  std::optional<Value> before, current, after, changed;
};

// An argument that the caller left out.
inline bool missing(const Value& value) { return is(value, Kind::undefined) && !Access::box(value); }

class Run {
 public:
  Run(const Program& program, const Value& variables, const RenderOptions& options)
      : program_(program), options_(options), steps_(options.max_steps) {
    if (!is(variables, Kind::dict))
      throw ArgumentError("ChatTemplate::render: variables are " + std::string(type_name(variables)) + ", expected a dict");
    globals_.resize(program.names.size(), Access::make(Kind::undefined, nullptr));
    for (std::size_t i = 0; i < globals_.size(); ++i)
      if (const Value* value = find(dictionary(variables), program.names[i])) globals_[i] = *value;
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  // Namespaces and macros can refer to themselves: what they hold is let go by hand.
  ~Run() {
    for (const auto& space : spaces_) space->items.clear();
    for (const ScopePtr& scope : captured_) scope->values.clear();
  }

  std::string render() {
    std::string text;
    out_ = &text;
    try {
      exec(program_.body, std::make_shared<Scope>(nullptr));
    } catch (const TemplateError&) {
      throw;
    } catch (const ArgumentError& error) {
      fail(error.what());
    }
    return text;
  }

 private:
  enum class Flow : std::uint8_t { on, break_, continue_ };
  static constexpr std::uint32_t max_recursion = 800;
  struct Nested {
    Run& run;
    explicit Nested(Run& r) : run(r) {
      if (++run.depth_ > max_recursion) run.fail("recursion is too deep");
    }
    ~Nested() { --run.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
  };
  // Output goes into `text` while this lives.
  struct Capture {
    Run& run;
    std::string text, *outer;
    explicit Capture(Run& r) : run(r), outer(r.out_) { run.out_ = &text; }
    ~Capture() { run.out_ = outer; }
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
  };

  [[noreturn]] void fail(const std::string& what) const { throw TemplateError(program_.file, line_, what, false); }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw UnsupportedError(program_.file + ": line " + std::to_string(line_) + ": " + what);
  }
  void spend(std::uint64_t steps) {
    if (steps > steps_) fail("more than " + std::to_string(options_.max_steps) + " steps");
    steps_ -= steps;
  }
  // Before text of `bytes` is made.
  void room(std::uint64_t bytes) {
    if (bytes > options_.max_bytes) fail("text longer than " + std::to_string(options_.max_bytes) + " bytes");
    spend(bytes / 16);
  }
  void append(std::string& text, std::string_view more) {
    if (more.size() > options_.max_bytes - std::min(options_.max_bytes, text.size()))
      fail("text longer than " + std::to_string(options_.max_bytes) + " bytes");
    spend(more.size() / 16);
    text += more;
  }
  Value text(std::string value, bool markup = false) {
    room(value.size());
    return Access::markup(Value(std::move(value)), markup);
  }
  Value list_of(std::vector<Value> items, Kind kind = Kind::list, std::string name = {}) {
    spend(items.size());
    return make_sequence(std::move(items), kind, std::move(name));
  }
  Value pair(Value first, Value second) {
    std::vector<Value> both;
    both.push_back(std::move(first));
    both.push_back(std::move(second));
    return make_sequence(std::move(both), Kind::tuple);
  }
  // A name of the template, or of Python, in a message: not longer than a line.
  static std::string quote(std::string_view name) {
    if (name.size() > 60) return "'" + std::string(name.substr(0, step_back(name, 58))) + "...'";
    return "'" + std::string(name) + "'";
  }

  // --- statements

  Flow exec(const Body& body, const ScopePtr& scope) {
    const Nested nested(*this);
    for (const Stmt& statement : body) {
      const Flow flow = exec(statement, scope);
      if (flow != Flow::on) return flow;
    }
    return Flow::on;
  }
  Flow exec(const Stmt& statement, const ScopePtr& scope) {
    spend(1);
    line_ = statement.line;
    switch (statement.op) {
      case Stmt::Op::text:
        append(*out_, statement.text);
        break;
      case Stmt::Op::print:
        for (const ExprPtr& expr : statement.exprs) {
          const Value value = eval(*expr, scope);
          print(*out_, value, false);
        }
        break;
      case Stmt::Op::if_:
        for (std::size_t i = 0; i < statement.bodies.size(); ++i)
          if (i == statement.exprs.size() || truth(eval(*statement.exprs[i], scope))) return exec(statement.bodies[i], scope);
        break;
      case Stmt::Op::for_:
        exec_for(statement, scope, eval(*statement.exprs[0], scope), 0);
        break;
      case Stmt::Op::set:
        assign(statement.targets[0], eval(*statement.exprs[0], scope), *scope);
        break;
      case Stmt::Op::set_block:
        assign(statement.targets[0], filtered(statement, Value(gather(statement.bodies[0], scope)), scope), *scope);
        break;
      case Stmt::Op::filter:
        print(*out_, filtered(statement, Value(gather(statement.bodies[0], scope)), scope), false);
        break;
      case Stmt::Op::macro:
        scope->set(statement.name, make_macro(statement, scope, program_.names[statement.name]));
        break;
      case Stmt::Op::call: {
        const Value caller = make_macro(statement, scope, "caller");
        print(*out_, eval_call(*statement.exprs[0], scope, &caller), false);
        break;
      }
      case Stmt::Op::with: {
        const auto inner = std::make_shared<Scope>(scope);
        for (std::size_t i = 0; i < statement.targets.size(); ++i)
          assign(statement.targets[i], eval(*statement.exprs[i], scope), *inner);
        return exec(statement.bodies[0], inner);
      }
      case Stmt::Op::scope:
        append(*out_, gather(statement.bodies[0], scope));
        break;
      case Stmt::Op::break_:
        return Flow::break_;
      case Stmt::Op::continue_:
        return Flow::continue_;
    }
    return Flow::on;
  }

  std::string gather(const Body& body, const ScopePtr& scope) {
    Capture capture(*this);
    exec(body, std::make_shared<Scope>(scope));
    return std::move(capture.text);
  }
  Value filtered(const Stmt& statement, Value value, const ScopePtr& scope) {
    for (const ExprPtr& expr : statement.exprs) value = filter(expr->text, std::move(value), arguments(*expr, 1, scope));
    return value;
  }
  Value make_macro(const Stmt& statement, const ScopePtr& scope, std::string name) {
    if (captured_.empty() || captured_.back() != scope) captured_.push_back(scope);
    return Access::make(Kind::macro, std::make_shared<Macro>(Macro{&statement, scope, std::move(name)}));
  }

  void assign(const Target& target, Value value, Scope& scope) {
    if (target.is_tuple) {
      const std::vector<Value> items = elements(value);
      if (items.size() != target.parts.size())
        fail(std::to_string(items.size()) + " values to unpack, expected " + std::to_string(target.parts.size()));
      for (std::size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
    } else if (target.attribute.empty()) {
      scope.set(target.name, std::move(value));
    } else {
      const Value space = look_up(target.name, scope);
      if (!is(space, Kind::attributes))
        fail("'" + program_.names[target.name] + "' is no namespace, its attribute cannot be set");
      set_attribute(const_cast<Attributes&>(Access::get<Attributes>(space)), target.attribute, std::move(value));
    }
  }
  void set_attribute(Attributes& space, const std::string& name, Value value) {
    if (name.starts_with("_")) fail("namespace attribute " + quote(name) + " begins with an underscore");
    spend(space.items.size() / 16);
    for (auto& [key, old] : space.items)
      if (key == name) {
        old = std::move(value);
        return;
      }
    space.items.emplace_back(name, std::move(value));
  }

  void exec_for(const Stmt& statement, const ScopePtr& scope, const Value& iterable, std::int64_t depth0) {
    const auto loop = std::make_shared<Loop>();
    loop->statement = &statement;
    loop->scope = scope;
    loop->items = elements(iterable);
    loop->filtered = statement.exprs.size() > 1;
    loop->depth0 = depth0;
    bool finished_one = false;
    while (advance(*loop)) {
      const auto inner = std::make_shared<Scope>(scope);
      inner->values.reserve(4);
      assign(statement.targets[0], *loop->current, *inner);
      inner->set(name_loop, Access::make(Kind::loop, loop));
      const Flow flow = exec(statement.bodies[0], inner);
      if (flow == Flow::break_) break;
      if (flow == Flow::on) finished_one = true;
    }
    // As compiled by Jinja: a first round that breaks does not keep `else` from running.
    if (!finished_one && statement.bodies.size() > 1) exec(statement.bodies[1], std::make_shared<Scope>(scope));
  }
  bool passes(const Loop& loop, const Value& item) {
    if (!loop.filtered) return true;
    const auto inner = std::make_shared<Scope>(loop.scope);
    assign(loop.statement->targets[0], item, *inner);
    return truth(eval(*loop.statement->exprs[1], inner));
  }
  const std::optional<Value>& peek(Loop& loop) {
    while (!loop.after && loop.at < loop.items.size()) {
      const Value item = loop.items[loop.at++];
      if (passes(loop, item)) loop.after = item;
    }
    return loop.after;
  }
  bool advance(Loop& loop) {
    spend(1);
    if (!peek(loop)) return false;
    loop.before = std::move(loop.current);
    loop.current = std::move(loop.after);
    loop.after.reset();
    ++loop.index0;
    return true;
  }
  std::int64_t length(Loop& loop) {
    if (loop.filtered) {
      std::vector<Value> left;
      for (; loop.at < loop.items.size(); ++loop.at)
        if (passes(loop, loop.items[loop.at])) left.push_back(loop.items[loop.at]);
      loop.items = std::move(left);
      loop.at = 0;
      loop.filtered = false;
    }
    return loop.index0 + 1 + (loop.after ? 1 : 0) + static_cast<std::int64_t>(loop.items.size() - loop.at);
  }
  Loop& loop_of(const Value& value) const { return const_cast<Loop&>(Access::get<Loop>(value)); }
  Value loop_attribute(const Value& value, const std::string& name) {
    Loop& loop = loop_of(value);
    if (name == "index0") return loop.index0;
    if (name == "index") return loop.index0 + 1;
    if (name == "first") return loop.index0 == 0;
    if (name == "last") return !peek(loop).has_value();
    if (name == "length") return length(loop);
    if (name == "revindex") return length(loop) - loop.index0;
    if (name == "revindex0") return length(loop) - loop.index0 - 1;
    if (name == "previtem") return loop.before ? *loop.before : make_undefined("there is no previous item");
    if (name == "nextitem") return peek(loop) ? *loop.after : make_undefined("there is no next item");
    if (name == "depth") return loop.depth0 + 1;
    if (name == "depth0") return loop.depth0;
    if (name == "cycle" || name == "changed") return Access::make(Kind::method, std::make_shared<Method>(Method{value, name}));
    return make_undefined("loop has no attribute " + quote(name));
  }
  Value loop_method(const Value& self, const std::string& name, const Arguments& given) {
    Loop& loop = loop_of(self);
    if (name == "cycle") {
      if (given.positional.empty()) fail("loop.cycle without items");
      return given.positional[static_cast<std::size_t>(loop.index0) % given.positional.size()];
    }
    const Value now = list_of(given.positional, Kind::tuple);
    const bool changed = !loop.changed || !equal(*loop.changed, now);
    loop.changed = now;
    return changed;
  }

  // --- expressions

  Value look_up(std::uint32_t name, Scope& scope) {
    for (Scope* at = &scope; at; at = at->parent.get())
      if (const Value* value = at->find(name)) return *value;
    if (!missing(globals_[name])) return globals_[name];
    const std::string& text = program_.names[name];
    constexpr std::array<const char*, 7> functions = {"raise_exception", "namespace", "range", "dict", "strftime_now", "cycler", "joiner"};
    for (std::size_t i = 0; i < functions.size(); ++i)
      if (text == functions[i]) return Access::function(static_cast<Function>(i));
    if (text == "lipsum") unsupported("function 'lipsum'");
    return make_undefined(quote(text) + " is undefined");
  }

  Value eval(const Expr& expr, const ScopePtr& scope) {
    const Nested nested(*this);
    spend(1);
    line_ = expr.line;
    switch (expr.op) {
      case Expr::Op::constant:
        return expr.constant;
      case Expr::Op::name:
        return look_up(expr.name, *scope);
      case Expr::Op::attribute:
        return eval_attribute(expr, scope);
      case Expr::Op::item:
        return eval_item(expr, scope);
      case Expr::Op::call:
        return eval_call(expr, scope, nullptr);
      case Expr::Op::filter:
        return eval_filter(expr, scope);
      case Expr::Op::test:
        return eval_test(expr, scope);
      case Expr::Op::not_:
        return !truth(eval(*expr.parts[0], scope));
      case Expr::Op::and_:
      case Expr::Op::or_: {
        Value left = eval(*expr.parts[0], scope);
        return truth(left) == (expr.op == Expr::Op::and_) ? eval(*expr.parts[1], scope) : left;
      }
      case Expr::Op::conditional:
        if (truth(eval(*expr.parts[0], scope))) return eval(*expr.parts[1], scope);
        if (expr.parts[2]) return eval(*expr.parts[2], scope);
        return make_undefined("the inline if evaluated to false and has no else");
      case Expr::Op::compare:
        return eval_compare(expr, scope);
      case Expr::Op::concat:
        return eval_concat(expr, scope);
      case Expr::Op::tuple:
      case Expr::Op::list: {
        std::vector<Value> items;
        for (const ExprPtr& part : expr.parts) items.push_back(eval(*part, scope));
        return list_of(std::move(items), expr.op == Expr::Op::tuple ? Kind::tuple : Kind::list);
      }
      case Expr::Op::dict:
        return eval_dict(expr, scope);
      case Expr::Op::minus:
      case Expr::Op::plus:
        return eval_sign(expr, scope);
      case Expr::Op::slice:
        fail("a slice outside of an index");
      default:
        return eval_binary(expr, scope);
    }
  }
  Value eval_attribute(const Expr& expr, const ScopePtr& scope) {
    const Value value = eval(*expr.parts[0], scope);
    line_ = expr.line;
    return attribute(value, expr.text);
  }
  Value eval_item(const Expr& expr, const ScopePtr& scope) {
    const Value value = eval(*expr.parts[0], scope);
    const Expr& key = *expr.parts[1];
    if (key.op != Expr::Op::slice) {
      const Value index = eval(key, scope);
      line_ = expr.line;
      return item(value, index);
    }
    std::array<Value, 3> bounds;
    for (std::size_t i = 0; i < 3; ++i)
      if (key.parts[i]) bounds[i] = eval(*key.parts[i], scope);
    line_ = expr.line;
    return slice(value, bounds);
  }
  Value eval_filter(const Expr& expr, const ScopePtr& scope) {
    Value value = eval(*expr.parts[0], scope);
    const Arguments given = arguments(expr, 1, scope);
    line_ = expr.line;
    return filter(expr.text, std::move(value), given);
  }
  Value eval_test(const Expr& expr, const ScopePtr& scope) {
    const Value value = eval(*expr.parts[0], scope);
    const Arguments given = arguments(expr, 1, scope);
    line_ = expr.line;
    return test(expr.text, value, given);
  }
  Value eval_call(const Expr& expr, const ScopePtr& scope, const Value* caller) {
    const Value callee = eval(*expr.parts[0], scope);
    Arguments given = arguments(expr, 1, scope);
    if (caller) given.named.emplace_back("caller", *caller);
    line_ = expr.line;
    return call(callee, given);
  }
  Arguments arguments(const Expr& expr, std::size_t from, const ScopePtr& scope) {
    Arguments given;
    for (std::size_t i = from; i < expr.parts.size(); ++i) given.positional.push_back(eval(*expr.parts[i], scope));
    if (expr.spread)
      for (const Value& value : elements(eval(*expr.spread, scope))) given.positional.push_back(value);
    for (const auto& [name, value] : expr.keywords) given.named.emplace_back(name, eval(*value, scope));
    if (expr.spread_keywords) {
      const Value more = eval(*expr.spread_keywords, scope);
      if (!is(more, Kind::dict)) fail("argument after ** is " + std::string(type_name(more)) + ", expected a dict");
      for (const auto& [name, value] : dictionary(more).items) {
        if (!is(name, Kind::string)) fail("argument names must be strings");
        given.named.emplace_back(string(name), value);
      }
    }
    spend(given.positional.size() + given.named.size());
    return given;
  }
  Value eval_concat(const Expr& expr, const ScopePtr& scope) {
    std::string joined;
    for (const ExprPtr& part : expr.parts) print(joined, eval(*part, scope), false);
    return Value(std::move(joined));
  }
  Value eval_dict(const Expr& expr, const ScopePtr& scope) {
    const auto box = std::make_shared<Dict>();
    for (std::size_t i = 0; i < expr.parts.size(); i += 2) {
      const Value key = eval(*expr.parts[i], scope);
      insert(*box, key, eval(*expr.parts[i + 1], scope));
    }
    return Access::make(Kind::dict, box);
  }
  void insert(Dict& dict, const Value& key, Value value) {
    spend(1);
    if (is(key, Kind::string)) return jinja::assign(dict, string(key), std::move(value));
    if (const Value* old = member(dict, key)) {
      const_cast<Value&>(*old) = std::move(value);
    } else {
      dict.items.emplace_back(key, value);
      build_index(dict);
      spend(dict.items.size());
    }
    dict.depth = deeper(deeper(dict.depth, key), value);
  }
  Value eval_sign(const Expr& expr, const ScopePtr& scope) {
    const Value value = eval(*expr.parts[0], scope);
    line_ = expr.line;
    if (is(value, Kind::undefined)) fail(why(value));
    if (!is_numeric(value)) fail(std::string("bad operand for a sign: ") + type_name(value));
    const bool minus = expr.op == Expr::Op::minus;
    if (is(value, Kind::number)) return minus ? -number(value) : number(value);
    if (minus && integer(value) == std::numeric_limits<std::int64_t>::min()) overflow();
    return minus ? -integer(value) : integer(value);
  }
  Value eval_compare(const Expr& expr, const ScopePtr& scope) {
    Value left = eval(*expr.parts[0], scope);
    for (std::size_t i = 0; i < expr.operators.size(); ++i) {
      Value right = eval(*expr.parts[i + 1], scope);
      line_ = expr.line;
      if (!compare(expr.operators[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }
  bool compare(const std::string& op, const Value& left, const Value& right) {
    if (op == "==") return equal(left, right);
    if (op == "!=") return !equal(left, right);
    if (op == "in") return contains(right, left);
    if (op == "not in") return !contains(right, left);
    if (is_numeric(left) && is_numeric(right) && (is(left, Kind::number) || is(right, Kind::number))) {  // NaN is unordered
      const double a = number(left), b = number(right);
      return op == "<" ? a < b : op == "<=" ? a <= b : op == ">" ? a > b : a >= b;
    }
    const int sign = order(left, right);
    return op == "<" ? sign < 0 : op == "<=" ? sign <= 0 : op == ">" ? sign > 0 : sign >= 0;
  }
  Value eval_binary(const Expr& expr, const ScopePtr& scope) {
    const Value left = eval(*expr.parts[0], scope), right = eval(*expr.parts[1], scope);
    line_ = expr.line;
    return arithmetic(expr.op, left, right);
  }

  [[noreturn]] void overflow() const { fail("integer beyond 64 bits"); }

  Value arithmetic(Expr::Op op, const Value& left, const Value& right) {
    using Op = Expr::Op;
    for (const Value* value : {&left, &right})
      if (is(*value, Kind::undefined) && !(op == Op::modulo && value == &right && is(left, Kind::string))) fail(why(*value));
    if (is_integral(left) && is_integral(right)) return integer_arithmetic(op, integer(left), integer(right));
    if (is_numeric(left) && is_numeric(right)) return real_arithmetic(op, number(left), number(right));
    if (op == Op::add && is(left, Kind::string) && is(right, Kind::string)) {
      const bool markup = Access::markup(left) || Access::markup(right);
      std::string joined = markup ? markup_text(left) : string(left);
      append(joined, markup ? markup_text(right) : string(right));
      return text(std::move(joined), markup);
    }
    if (op == Op::add && left.kind() == right.kind() && (is(left, Kind::list) || is(left, Kind::tuple))) {
      std::vector<Value> items = sequence(left).items;
      items.insert(items.end(), sequence(right).items.begin(), sequence(right).items.end());
      return list_of(std::move(items), left.kind());
    }
    if (op == Op::multiply && (is_integral(left) || is_integral(right))) {
      const Value& many = is_integral(left) ? right : left;
      const std::int64_t count = std::max<std::int64_t>(0, integer(is_integral(left) ? left : right));
      const auto times = static_cast<std::uint64_t>(count);
      if (is(many, Kind::string)) {
        const std::string& once = string(many);
        if (!once.empty() && times > options_.max_bytes / once.size()) room(options_.max_bytes + 1);
        std::string repeated;
        for (std::uint64_t i = 0; !once.empty() && i < times; ++i) append(repeated, once);
        return text(std::move(repeated), Access::markup(many));
      }
      if (is(many, Kind::list) || is(many, Kind::tuple)) {
        const std::vector<Value>& once = sequence(many).items;
        std::vector<Value> items;
        for (std::uint64_t i = 0; !once.empty() && i < times; ++i) {
          spend(once.size());
          items.insert(items.end(), once.begin(), once.end());
        }
        return make_sequence(std::move(items), many.kind());
      }
    }
    if (op == Op::modulo && is(left, Kind::string))
      return text(percent_format(string(left), right, Access::markup(left)), Access::markup(left));
    fail(std::string("operands do not fit: ") + type_name(left) + " " + symbol(op) + " " + type_name(right));
  }
  static const char* symbol(Expr::Op op) {
    switch (op) {
      case Expr::Op::add:
        return "+";
      case Expr::Op::subtract:
        return "-";
      case Expr::Op::multiply:
        return "*";
      case Expr::Op::divide:
        return "/";
      case Expr::Op::floor_divide:
        return "//";
      case Expr::Op::modulo:
        return "%";
      default:
        return "**";
    }
  }
  Value integer_arithmetic(Expr::Op op, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    switch (op) {
      case Expr::Op::add:
        if (__builtin_add_overflow(a, b, &result)) overflow();
        return result;
      case Expr::Op::subtract:
        if (__builtin_sub_overflow(a, b, &result)) overflow();
        return result;
      case Expr::Op::multiply:
        if (__builtin_mul_overflow(a, b, &result)) overflow();
        return result;
      case Expr::Op::floor_divide:
      case Expr::Op::modulo: {
        if (b == 0) fail("division by zero");
        if (b == -1) {
          if (op == Expr::Op::modulo) return 0;
          if (__builtin_sub_overflow(std::int64_t{0}, a, &result)) overflow();
          return result;
        }
        const std::int64_t rest = a % b;
        const bool down = rest != 0 && (rest < 0) != (b < 0);  // Python rounds towards minus infinity
        return op == Expr::Op::modulo ? rest + (down ? b : 0) : a / b - (down ? 1 : 0);
      }
      case Expr::Op::power: {
        if (b < 0) return real_arithmetic(op, static_cast<double>(a), static_cast<double>(b));
        result = 1;
        if (a == 0 || a == 1) return b == 0 ? 1 : a;
        if (a == -1) return b % 2 == 0 ? 1 : -1;
        for (; b > 0; --b)
          if (__builtin_mul_overflow(result, a, &result)) overflow();
        return result;
      }
      default:
        return real_arithmetic(op, static_cast<double>(a), static_cast<double>(b));
    }
  }
  Value real_arithmetic(Expr::Op op, double a, double b) {
    switch (op) {
      case Expr::Op::add:
        return a + b;
      case Expr::Op::subtract:
        return a - b;
      case Expr::Op::multiply:
        return a * b;
      case Expr::Op::power:
        if (a == 0 && b < 0) fail("division by zero");
        if (a < 0 && std::isfinite(b) && b != std::floor(b)) fail("a root of a negative number");
        return std::pow(a, b);
      default:
        break;
    }
    if (b == 0) fail("division by zero");
    if (op == Expr::Op::divide) return a / b;
    double rest = std::fmod(a, b);
    double whole = (a - rest) / b;
    if (rest != 0 && (rest < 0) != (b < 0)) rest += b, whole -= 1;
    if (op == Expr::Op::modulo) return rest == 0 ? std::copysign(0.0, b) : rest;
    const double floor = std::floor(whole);
    return whole - floor > 0.5 ? floor + 1 : floor;
  }

  // --- Python's protocols: truth, iteration, length, equality, order, membership, indexing, printing

  static const std::string& why(const Value& undefined) {
    static const std::string nothing = "undefined";
    return missing(undefined) ? nothing : Access::get<Undefined>(undefined).why;
  }
  static bool truth(const Value& value) {
    switch (value.kind()) {
      case Kind::undefined:
      case Kind::none:
        return false;
      case Kind::boolean:
      case Kind::integer:
        return integer(value) != 0;
      case Kind::number:
        return number(value) != 0;
      case Kind::string:
        return !string(value).empty();
      case Kind::list:
      case Kind::tuple:
      case Kind::view:
      case Kind::range:
        return !sequence(value).items.empty();
      case Kind::dict:
        return !dictionary(value).items.empty();
      default:
        return true;
    }
  }
  std::vector<Value> elements(const Value& value) {
    std::vector<Value> items;
    switch (value.kind()) {
      case Kind::undefined:
        break;
      case Kind::string: {
        const Characters characters(string(value));
        spend(characters.size());
        for (std::size_t i = 0; i < characters.size(); ++i) items.emplace_back(characters[i]);  // of markup, too: plain strings
        break;
      }
      case Kind::list:
      case Kind::tuple:
      case Kind::view:
      case Kind::range:
        spend(sequence(value).items.size());
        items = sequence(value).items;
        break;
      case Kind::generator: {
        const Sequence& generator = sequence(value);
        spend(generator.items.size() - generator.taken);
        items.assign(generator.items.begin() + static_cast<std::ptrdiff_t>(generator.taken), generator.items.end());
        generator.taken = generator.items.size();
        break;
      }
      case Kind::dict:
        spend(dictionary(value).items.size());
        for (const auto& [key, member] : dictionary(value).items) items.push_back(key);
        break;
      default:
        fail(std::string(type_name(value)) + " is not iterable");
    }
    return items;
  }
  std::int64_t size_of(const Value& value) {
    switch (value.kind()) {
      case Kind::undefined:
        return 0;
      case Kind::string:
        spend(string(value).size() / 16);
        return static_cast<std::int64_t>(Characters(string(value)).size());
      case Kind::list:
      case Kind::tuple:
      case Kind::view:
      case Kind::range:
        return static_cast<std::int64_t>(sequence(value).items.size());
      case Kind::dict:
        return static_cast<std::int64_t>(dictionary(value).items.size());
      case Kind::loop:
        return length(loop_of(value));
      default:
        fail(std::string(type_name(value)) + " has no length");
    }
  }

  bool equal(const Value& a, const Value& b) {
    spend(1);
    if (is_integral(a) && is_integral(b)) return integer(a) == integer(b);
    if (is_numeric(a) && is_numeric(b)) return number(a) == number(b);
    if (a.kind() != b.kind()) return false;
    if (is(a, Kind::none) || is(a, Kind::undefined)) return true;
    if (is(a, Kind::function)) return integer(a) == integer(b);
    if (is(a, Kind::string)) {
      if (string(a).size() != string(b).size()) return false;
      spend(string(a).size() / 64);
      return string(a) == string(b);
    }
    if (Access::box(a) == Access::box(b)) return true;
    if (is(a, Kind::list) || is(a, Kind::tuple) || is(a, Kind::range)) {
      const auto &left = sequence(a).items, &right = sequence(b).items;
      if (left.size() != right.size()) return false;
      for (std::size_t i = 0; i < left.size(); ++i)
        if (!equal(left[i], right[i])) return false;
      return true;
    }
    if (is(a, Kind::dict)) {
      const Dict &left = dictionary(a), &right = dictionary(b);
      if (left.items.size() != right.items.size()) return false;
      for (const auto& [key, value] : left.items) {
        const Value* other = member(right, key);
        if (!other || !equal(value, *other)) return false;
      }
      return true;
    }
    return false;
  }
  int order(const Value& a, const Value& b) {
    spend(1);
    for (const Value* value : {&a, &b})
      if (is(*value, Kind::undefined)) fail(why(*value));
    const auto sign = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
    if (is_integral(a) && is_integral(b)) return sign(integer(a), integer(b));
    if (is_numeric(a) && is_numeric(b)) return sign(number(a), number(b));
    if (is(a, Kind::string) && is(b, Kind::string)) {
      spend(std::min(string(a).size(), string(b).size()) / 64);
      return sign(string(a), string(b));  // UTF-8 sorts like its code points
    }
    if (a.kind() == b.kind() && (is(a, Kind::list) || is(a, Kind::tuple))) {
      const auto &left = sequence(a).items, &right = sequence(b).items;
      for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i)
        if (!equal(left[i], right[i])) return order(left[i], right[i]);
      return sign(left.size(), right.size());
    }
    fail(std::string("cannot be ordered: ") + type_name(a) + " and " + type_name(b));
  }
  void hashable(const Value& key) {
    if (is(key, Kind::list) || is(key, Kind::dict)) fail(std::string("unhashable type: ") + type_name(key));
  }
  const Value* member(const Dict& dict, const Value& key) {
    if (is(key, Kind::string)) return find(dict, string(key));
    hashable(key);
    for (const auto& [name, value] : dict.items)
      if (!is(name, Kind::string) && equal(name, key)) return &value;
    spend(dict.items.size());
    return nullptr;
  }
  bool contains(const Value& whole, const Value& part) {
    switch (whole.kind()) {
      case Kind::undefined:
        return false;
      case Kind::string:
        if (is(part, Kind::undefined)) fail(why(part));
        if (!is(part, Kind::string)) fail(std::string("'in <string>' needs a string, not ") + type_name(part));
        spend(string(whole).size() / 16);
        return string(whole).find(string(part)) != std::string::npos;
      case Kind::dict:
        return member(dictionary(whole), part) != nullptr;
      default:
        for (const Value& item : elements(whole))
          if (equal(item, part)) return true;
        return false;
    }
  }

  Value attribute(const Value& value, const std::string& name) {
    switch (value.kind()) {
      case Kind::undefined:
        fail(why(value));
      case Kind::loop:
        return loop_attribute(value, name);
      case Kind::attributes:
        for (const auto& [key, item] : Access::get<Attributes>(value).items)
          if (key == name) return item;
        break;
      case Kind::macro:
        if (const std::optional<Value> found = macro_attribute(Access::get<Macro>(value), name)) return *found;
        break;
      case Kind::method:
        if (const std::optional<Value> found = cycler_attribute(value, name)) return *found;
        break;
      case Kind::function:
        if (static_cast<Function>(integer(value)) == Function::dict && name == "fromkeys") return Access::function(Function::fromkeys);
        break;
      case Kind::string:
      case Kind::list:
      case Kind::tuple:
      case Kind::dict:
      case Kind::boolean:
      case Kind::integer:
      case Kind::number:
        if (is_numeric(value) && name == "real") return is(value, Kind::number) ? value : Value(integer(value));
        if (is_numeric(value) && name == "imag") return is(value, Kind::number) ? Value(0.0) : Value(0);
        switch (method_of(value.kind(), name)) {
          case MethodKind::known:
          case MethodKind::unknown:
            return Access::make(Kind::method, std::make_shared<Method>(Method{value, name}));
          case MethodKind::forbidden:
            return make_undefined("access to attribute " + quote(name) + " of " + type_name(value) + " is unsafe");
          case MethodKind::none:
            break;
        }
        if (is(value, Kind::dict))
          if (const Value* found = find(dictionary(value), name)) return *found;
        if (is(value, Kind::tuple) && sequence(value).name == group_name && (name == "grouper" || name == "list"))
          return sequence(value).items[name == "list" ? 1 : 0];
        break;
      default:
        break;
    }
    return make_undefined(std::string(type_name(value)) + " has no attribute " + quote(name));
  }
  std::optional<Value> macro_attribute(const Macro& macro, const std::string& name) {
    const Signature& signature = macro.statement->signature;
    if (name == "name") return macro.name;
    if (name == "catch_varargs") return signature.varargs;
    if (name == "catch_kwargs") return signature.kwargs;
    if (name == "caller") return signature.caller;
    if (name != "arguments") return std::nullopt;
    std::vector<Value> names;
    for (const std::uint32_t parameter : signature.names) names.emplace_back(program_.names[parameter]);
    return list_of(std::move(names), Kind::tuple);
  }
  // cycler() and joiner() are methods that keep their place in a namespace of their own.
  Value counter(const char* kind, Value what) {
    const auto space = std::make_shared<Attributes>();
    spaces_.push_back(space);
    space->items = {{"what", std::move(what)}, {"at", Value(0)}};
    return Access::make(Kind::method, std::make_shared<Method>(Method{Access::make(Kind::attributes, space), kind}));
  }
  std::optional<Value> cycler_attribute(const Value& value, const std::string& name) {
    const Method& bound = Access::get<Method>(value);
    if (bound.name != "cycler") return std::nullopt;
    const Attributes& state = Access::get<Attributes>(bound.self);
    if (name == "current") return sequence(state.items[0].second).items[static_cast<std::size_t>(integer(state.items[1].second))];
    if (name == "next" || name == "reset") return Access::make(Kind::method, std::make_shared<Method>(Method{bound.self, name}));
    return std::nullopt;
  }
  Value count_on(const Method& bound, const Arguments& given) {
    bind(bound.name, given, {}, 0);
    auto& state = const_cast<Attributes&>(Access::get<Attributes>(bound.self));
    const Value what = state.items[0].second;
    Value& at = state.items[1].second;
    if (bound.name == "joiner") {
      if (integer(at) > 0) return what;
      at = Value(1);
      return Value("");
    }
    if (bound.name == "cycler") fail("a cycler is not callable");
    if (bound.name == "reset") return at = Value(0), Value();
    const auto& items = sequence(what).items;
    const Value now = items[static_cast<std::size_t>(integer(at))];
    at = Value((integer(at) + 1) % static_cast<std::int64_t>(items.size()));
    return now;
  }
  Value item(const Value& value, const Value& key) {
    if (is(value, Kind::undefined)) fail(why(value));
    if (is(value, Kind::dict) && !is(key, Kind::list) && !is(key, Kind::dict)) {
      if (const Value* found = member(dictionary(value), key)) return *found;
    }
    if (is_integral(key) &&
        (is(value, Kind::string) || is(value, Kind::list) || is(value, Kind::tuple) || is(value, Kind::range))) {
      const std::int64_t size = size_of(value), index = integer(key) < 0 ? integer(key) + size : integer(key);
      if (index >= 0 && index < size) {
        const auto place = static_cast<std::size_t>(index);
        if (!is(value, Kind::string)) return sequence(value).items[place];
        return Access::markup(Value(Characters(string(value))[place]), Access::markup(value));
      }
    }
    if (is(key, Kind::string)) return attribute(value, string(key));
    std::string name;
    if (is_integral(key)) name = std::to_string(integer(key));
    return make_undefined(std::string(type_name(value)) + " has no element " + (name.empty() ? type_name(key) : name));
  }
  Value slice(const Value& value, const std::array<Value, 3>& bounds) {
    if (is(value, Kind::undefined)) fail(why(value));
    const bool is_text = is(value, Kind::string);
    if (!is_text && !is(value, Kind::list) && !is(value, Kind::tuple) && !is(value, Kind::range))
      fail(std::string(type_name(value)) + " cannot be sliced");
    for (const Value& bound : bounds)
      if (!is(bound, Kind::none) && !is_integral(bound)) fail(std::string("slice bound is ") + type_name(bound));
    const std::int64_t step = is(bounds[2], Kind::none) ? 1 : integer(bounds[2]);
    if (step == 0) fail("slice step is zero");
    const std::int64_t size = size_of(value);
    const std::int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
    const auto place = [&](const Value& bound, std::int64_t fallback) {
      if (is(bound, Kind::none)) return fallback;
      std::int64_t at = integer(bound);
      if (at < 0) at = at < -size ? low : at + size;
      return std::clamp(at, low, std::max(low, high));
    };
    const std::int64_t begin = place(bounds[0], step < 0 ? high : low), end = place(bounds[1], step < 0 ? low : high);
    if (is_text) {
      const Characters characters(string(value));
      std::string picked;
      if (step == 1) {
        if (begin < end) picked = characters.between(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
      } else {
        for (std::int64_t i = begin; step < 0 ? i > end : i < end;) {
          picked += characters[static_cast<std::size_t>(i)];
          if (__builtin_add_overflow(i, step, &i)) break;
        }
      }
      return text(std::move(picked), Access::markup(value));
    }
    std::vector<Value> picked;
    for (std::int64_t i = begin; step < 0 ? i > end : i < end;) {
      picked.push_back(sequence(value).items[static_cast<std::size_t>(i)]);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    // Elsewhere nobody can tell the part of a range from a list.
    if (is(value, Kind::range) && picked.size() > 1) {
      const std::int64_t first = integer(picked[0]), by = integer(picked[1]) - first, after = first + by * static_cast<std::int64_t>(picked.size());
      return list_of(std::move(picked), Kind::range, range_name(first, after, by));
    }
    return list_of(std::move(picked), is(value, Kind::tuple) ? Kind::tuple : Kind::list);
  }

  // str(value), or repr(value).
  void print(std::string& out, const Value& value, bool repr) {
    const Nested nested(*this);
    spend(1);
    switch (value.kind()) {
      case Kind::undefined:
        append(out, repr ? "Undefined" : "");
        break;
      case Kind::none:
        append(out, "None");
        break;
      case Kind::boolean:
        append(out, integer(value) ? "True" : "False");
        break;
      case Kind::integer:
        append(out, std::to_string(integer(value)));
        break;
      case Kind::number:
        append(out, jinja::print(number(value)));
        break;
      case Kind::string:
        if (!repr)
          append(out, string(value));
        else
          append(out, Access::markup(value) ? "Markup(" + repr_text(string(value)) + ")" : repr_text(string(value)));
        break;
      case Kind::list:
        print_items(out, sequence(value).items, "[", "]");
        break;
      case Kind::tuple:
        print_items(out, sequence(value).items, "(", sequence(value).items.size() == 1 ? ",)" : ")");
        break;
      case Kind::view:
        print_items(out, sequence(value).items, (sequence(value).name + "([").c_str(), "])");
        break;
      case Kind::range:
        append(out, sequence(value).name);
        break;
      case Kind::dict: {
        const char* separator = "{";
        for (const auto& [key, item] : dictionary(value).items) {
          append(out, std::exchange(separator, ", "));
          print(out, key, true);
          append(out, ": ");
          print(out, item, true);
        }
        append(out, dictionary(value).items.empty() ? "{}" : "}");
        break;
      }
      case Kind::attributes: {
        const char* separator = "<Namespace {";
        for (const auto& [key, item] : Access::get<Attributes>(value).items) {
          append(out, std::exchange(separator, ", "));
          append(out, repr_text(key));
          append(out, ": ");
          print(out, item, true);
        }
        append(out, Access::get<Attributes>(value).items.empty() ? "<Namespace {}>" : "}>");
        break;
      }
      case Kind::macro:
        append(out, "<Macro " + repr_text(Access::get<Macro>(value).name) + ">");
        break;
      case Kind::loop:
        append(out,
               "<LoopContext " + std::to_string(loop_of(value).index0 + 1) + "/" + std::to_string(length(loop_of(value))) + ">");
        break;
      // Python prints an address here: nothing that a prompt could mean.
      case Kind::generator:
      case Kind::method:
      case Kind::function:
        fail(std::string("a ") + type_name(value) + " is printed");
    }
  }
  void print_items(std::string& out, const std::vector<Value>& items, const char* open, const char* close) {
    append(out, open);
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) append(out, ", ");
      print(out, items[i], true);
    }
    append(out, close);
  }
  std::string str(const Value& value) {
    std::string result;
    print(result, value, false);
    return result;
  }
  // The text of a string without a copy; str() of anything else, kept in `buffer`.
  const std::string& soft(const Value& value, std::string& buffer) {
    if (is(value, Kind::string)) return string(value);
    return buffer = str(value);
  }
  std::string markup_text(const Value& value) { return Access::markup(value) ? string(value) : escape(str(value)); }

  // --- calls

  Value call(const Value& callee, Arguments& given) {
    const Nested nested(*this);
    switch (callee.kind()) {
      case Kind::undefined:
        fail(why(callee));
      case Kind::macro:
        return call_macro(Access::get<Macro>(callee), given);
      case Kind::function:
        return call_function(static_cast<Function>(integer(callee)), given);
      case Kind::method: {
        const Method& bound = Access::get<Method>(callee);
        if (is(bound.self, Kind::attributes)) return count_on(bound, given);
        return is(bound.self, Kind::loop) ? loop_method(bound.self, bound.name, given) : method(bound.self, bound.name, given);
      }
      case Kind::loop: {
        const Loop& loop = loop_of(callee);
        if (!loop.statement->recursive) fail("loop is called, but the 'for' is not recursive");
        if (given.positional.size() != 1) fail("loop() takes one argument");
        Capture capture(*this);
        exec_for(*loop.statement, loop.scope, given.positional[0], loop.depth0 + 1);
        return Value(std::move(capture.text));
      }
      default:
        fail(std::string(type_name(callee)) + " is not callable");
    }
  }
  Value call_macro(const Macro& macro, Arguments& given) {
    const Signature& signature = macro.statement->signature;
    const auto scope = std::make_shared<Scope>(macro.scope);
    const std::size_t count = signature.names.size(), first_default = count - signature.defaults.size();
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t name = signature.names[i];
      std::optional<Value> value;
      if (i < given.positional.size())
        value = given.positional[i];
      else
        value = take(given, program_.names[name]);
      if (!value)
        value = i >= first_default ? eval(*signature.defaults[i - first_default], scope)
                                   : make_undefined("parameter " + quote(program_.names[name]) + " was not provided");
      scope->set(name, std::move(*value));
    }
    const bool own_caller = std::find(signature.names.begin(), signature.names.end(), name_caller) != signature.names.end();
    if (signature.caller && !own_caller) {
      const std::optional<Value> caller = take(given, "caller");
      scope->set(name_caller, caller ? *caller : make_undefined("no caller defined"));
    }
    if (signature.kwargs) {
      const auto rest = std::make_shared<Dict>();
      for (auto& [name, value] : given.named) jinja::assign(*rest, name, std::move(value));
      scope->set(name_kwargs, Access::make(Kind::dict, rest));
    } else if (!given.named.empty()) {
      fail("macro " + quote(macro.name) + " has no parameter " + quote(given.named[0].first));
    }
    std::vector<Value> more;
    for (std::size_t i = count; i < given.positional.size(); ++i) more.push_back(given.positional[i]);
    if (!signature.varargs && !more.empty())
      fail("macro " + quote(macro.name) + " takes at most " + std::to_string(count) + " arguments");
    if (signature.varargs) scope->set(name_varargs, list_of(std::move(more), Kind::tuple));
    Capture capture(*this);
    exec(macro.statement->bodies[0], scope);
    return Value(std::move(capture.text));
  }
  static std::optional<Value> take(Arguments& given, const std::string& name) {
    for (auto entry = given.named.begin(); entry != given.named.end(); ++entry) {
      if (entry->first != name) continue;
      Value value = std::move(entry->second);
      given.named.erase(entry);
      return value;
    }
    return std::nullopt;
  }
  // Arguments in the order of `names`; those left out are missing(). Throws if one of the first `required` is missing.
  std::vector<Value> bind(const std::string& callee, const Arguments& given, std::initializer_list<const char*> names,
                          std::size_t required) {
    if (given.positional.size() > names.size())
      fail(quote(callee) + " takes at most " + std::to_string(names.size()) + " arguments");
    std::vector<Value> bound = given.positional;
    bound.resize(names.size(), Access::make(Kind::undefined, nullptr));
    for (const auto& [name, value] : given.named) {
      const auto place =
          std::find_if(names.begin(), names.end(), [&, key = std::string_view(name)](const char* other) { return key == other; });
      if (place == names.end()) fail(quote(callee) + " has no argument " + quote(name));
      const auto index = static_cast<std::size_t>(place - names.begin());
      if (index < given.positional.size()) fail(quote(callee) + " got " + quote(name) + " twice");
      bound[index] = value;
    }
    for (std::size_t i = 0; i < required; ++i)
      if (missing(bound[i])) fail(quote(callee) + " needs argument '" + names.begin()[i] + "'");
    return bound;
  }
  bool flag(const Value& value, bool fallback) { return missing(value) ? fallback : truth(value); }
  std::int64_t whole(const Value& value, std::int64_t fallback) {
    if (missing(value)) return fallback;
    if (is(value, Kind::undefined)) fail(why(value));
    if (!is_integral(value)) fail(std::string("an integer expected, found ") + type_name(value));
    return integer(value);
  }
  const std::string& text_of(const Value& value) {
    if (is(value, Kind::undefined)) fail(why(value));
    if (!is(value, Kind::string)) fail(std::string("a string expected, found ") + type_name(value));
    return string(value);
  }

  Value call_function(Function function, Arguments& given) {
    switch (function) {
      case Function::raise_exception: {
        const auto message = bind("raise_exception", given, {"message"}, 1);
        throw TemplateError(program_.file, line_, str(message[0]), true);
      }
      case Function::strftime_now:
        return text(strftime(now(), text_of(bind("strftime_now", given, {"format"}, 1)[0])));
      case Function::range:
        return range(given);
      case Function::namespace_: {
        const auto space = std::make_shared<Attributes>();
        spaces_.push_back(space);
        const Value from = dict_from(given);
        for (const auto& [key, value] : dictionary(from).items) set_attribute(*space, text_of(key), value);
        return Access::make(Kind::attributes, space);
      }
      case Function::dict:
        return dict_from(given);
      case Function::cycler:
        if (given.positional.empty() || !given.named.empty()) fail("cycler needs items");
        return counter("cycler", list_of(given.positional, Kind::tuple));
      case Function::joiner: {
        const auto separator = bind("joiner", given, {"sep"}, 0);
        return counter("joiner", missing(separator[0]) ? Value(", ") : separator[0]);
      }
      case Function::fromkeys: {
        const auto args = bind("fromkeys", given, {"iterable", "value"}, 1);
        const auto box = std::make_shared<Dict>();
        for (const Value& key : elements(args[0])) {
          hashable(key);
          insert(*box, key, missing(args[1]) ? Value() : args[1]);
        }
        return Access::make(Kind::dict, box);
      }
    }
    fail("unknown function");
  }
  // dict(mapping or pairs, name=value ...)
  Value dict_from(const Arguments& given) {
    if (given.positional.size() > 1) fail("dict takes at most 1 argument");
    const auto box = std::make_shared<Dict>();
    if (!given.positional.empty()) {
      const Value& from = given.positional[0];
      if (is(from, Kind::dict)) {
        for (const auto& [key, value] : dictionary(from).items) insert(*box, key, value);
      } else {
        for (const Value& entry : elements(from)) {
          const std::vector<Value> both = elements(entry);
          if (both.size() != 2) fail("dict needs pairs, found " + std::to_string(both.size()) + " elements");
          hashable(both[0]);
          insert(*box, both[0], both[1]);
        }
      }
    }
    for (const auto& [name, value] : given.named) insert(*box, Value(name), value);
    return Access::make(Kind::dict, box);
  }
  Value range(const Arguments& given) {
    if (given.positional.empty() || given.positional.size() > 3 || !given.named.empty()) fail("range takes 1 to 3 arguments");
    const auto at = [&](std::size_t i) { return whole(given.positional[i], 0); };
    const bool one = given.positional.size() == 1;
    const std::int64_t begin = one ? 0 : at(0), end = one ? at(0) : at(1), step = given.positional.size() == 3 ? at(2) : 1;
    if (step == 0) fail("range step is zero");
    constexpr std::size_t most = 100000;  // the sandbox's limit
    std::vector<Value> items;
    for (std::int64_t i = begin; step > 0 ? i < end : i > end;) {
      if (items.size() == most) fail("range of more than " + std::to_string(most) + " elements");
      items.emplace_back(i);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return list_of(std::move(items), Kind::range, range_name(begin, end, step));
  }
  static std::string range_name(std::int64_t begin, std::int64_t end, std::int64_t step) {
    return "range(" + std::to_string(begin) + ", " + std::to_string(end) + (step == 1 ? "" : ", " + std::to_string(step)) + ")";
  }

  // In jinja_time.ipp.
  std::tm now();
  std::string strftime(const std::tm& time, std::string_view format);

  // In jinja_text.ipp.
  enum class MethodKind : std::uint8_t { none, known, forbidden, unknown };
  static MethodKind method_of(Kind kind, const std::string& name);
  Value method(const Value& self, const std::string& name, const Arguments& given);
  Value string_method(const Value& self, const std::string& name, const Arguments& given);
  Value is_method(const std::string& text, const std::string& name);
  Value split(const std::string& text, const std::vector<Value>& given, bool from_right, bool markup);
  std::string replace(const std::string& text, const std::string& from, const std::string& to, std::int64_t count);
  std::string percent_format(const std::string& format, const Value& values, bool markup);
  std::string brace_format(const std::string& format, const Arguments& given, bool markup);
  std::string format_value(const Value& value, const std::string& spec);
  std::string pad(const std::string& text, std::int64_t width, const std::string& fill, char align);
  std::string lower(const std::string& text);
  std::string casefold(const std::string& text);
  std::string upper(const std::string& text);
  std::string initial(const std::string& character);
  std::string title(const std::string& text);
  std::string capitalize(const std::string& text);
  static std::string escape(const std::string& text);
  static std::string repr_text(const std::string& text);
  static std::vector<std::string_view> lines(std::string_view text, bool keep_ends);

  // In jinja_filters.ipp.
  Value filter(const std::string& name, Value value, const Arguments& given);
  Value sequence_filter(const std::string& name, const Value& value, const Arguments& given);
  Value text_filter(const std::string& name, const Value& value, const Arguments& given);
  Value number_filter(const std::string& name, const Value& value, const Arguments& given);
  Value map(const Value& value, const Arguments& given);
  Value select(const Value& value, const Arguments& given, bool by_attribute, bool keep);
  Value group(const Value& value, const Arguments& given);
  bool test(const std::string& name, const Value& value, const Arguments& given);
  Value path(const Value& value, const Value& attribute, const Value& fallback);
  Value sort_key(const Value& value, const Value& attribute, bool case_sensitive);
  void sort(std::vector<Value>& items, const Value& attribute, bool case_sensitive, bool reverse);
  struct JsonStyle {
    bool ascii = false, sort_keys = false, pretty = false;
    std::string indent, item_separator = ", ", key_separator = ": ";
  };
  void json(std::string& out, const Value& value, const JsonStyle& style, std::uint32_t level);
  void json_text(std::string& out, const std::string& text, bool ascii);

  const Program& program_;
  const RenderOptions& options_;
  std::uint64_t steps_;
  std::vector<Value> globals_;
  std::string* out_ = nullptr;
  std::vector<std::shared_ptr<Attributes>> spaces_;
  std::vector<ScopePtr> captured_;
  std::uint32_t line_ = 1, depth_ = 0;
};

}  // namespace detail::jinja
}  // namespace chiasm::inline CHIASM_ABI
