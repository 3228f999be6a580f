"""Headers of C and C++, and how they change: what leads to other code, and what leads to none."""

UNNAMED = [
    "int another(int, const struct thing * thing);",
    'int shown(void) __attribute__((visibility("default")));',
    "extern const float table[1 << 8];",
    "static const int numbers[2][2] = {{1, 2}, {3, 4}};",
    "static inline int twice(int size) { return size * 2; }",
    "struct more { int a; struct thing thing; };",
    'typedef struct { float d; } block;\nstatic_assert(sizeof(block) == 4, "block");',
    "typedef void (*callback)(int, void *);",
    "enum other { OTHER_A = 1 << 2, OTHER_B };",
    "union both { int a; float b; };",
]
UNNAMED_CPP = [
    "namespace more { inline long of(const struct tm * at) { struct tm one = *at; return one.tm_year; } }",
    "template <typename T, typename U = T> T larger(T a, U b) { return a > b ? a : b; }",
    "namespace more { inline int thrice(int size) { return size * 3; } static constexpr int COUNT = 3; }",
    "class base { public: virtual int size() { return 1; } virtual ~base() = default; };",
    "template <class T> struct box { T held; };\nusing int_box = box<int>;",
    "struct tag {};\ntemplate <typename... T> tag first(T &&...);\ntag second(tag &, tag *);",
]

# A header and its source, in which the first text is put in the second's place; C++, if it is not C.
# How a type is told of first where nothing is named; and another one of that name where that is not so.
TOLD_FIRST = {
    "in parameters": "int dead(struct later * at);",
    "as a class": "int dead(class later * at);",
    "after a body had it": (
        "inline int dead1() { struct later * p = 0; return !p; }\nint dead(struct later * at);"
    ),
    "after one within a type": "struct outer { struct later { int a; }; };\nint dead(struct later * at);",
    "after another namespace had one": "namespace other { struct later; }\nint dead(struct later * at);",
}


CHANGES = {
    "another name for the linker in a body, without more": (
        'static inline void dead(void) { int other(void) __asm__("near"); other(); }\nint other(void);',
        '"near"',
        '"nearer"',
        "int two(void) { return other(); }",
    ),
    "what a body says of a function that it declares": (
        "static inline void dead(void) { int other(void) __attribute__((cold)); other(); }\nint other(void);",
        " __attribute__((cold))",
        "",
        "int two(int a) { return a ? other() : 3; }",
    ),
    "another name for the linker in a function that nothing names": (
        (
            'static inline void dead(void) { extern int other(void) __asm__("near"); other(); }\n'
            "int other(void);"
        ),
        '"near"',
        '"nearer"',
        "int two(void) { return other(); }",
    ),
    "a type that another name tells of": (
        "typedef struct later * later_t;\nint use(struct later *);",
        "typedef struct later",
        "typedef struct other",
        (
            "#ifdef __cplusplus\nlater_t two(later_t at) { return at; }\n#else\n"
            "int two(void) { return _Generic(&use, int (*)(struct later *): 1, default: 2); }\n#endif"
        ),
    ),
    "a value of an enumeration": ("", "KIND_A,", "KIND_A, KIND_0,", ""),
    "a value that is given": ("", "KIND_B,", "KIND_B = 7,", ""),
    "the sign of an enumeration": (
        "",
        "KIND_C }",
        "KIND_C, KIND_NONE = -1 }",
        "long two(enum kind kind) { return kind; }",
    ),
    "a member": (
        "",
        "int size; }",
        "int more; int size; }",
        "int two(struct thing * at) { return at->size; }",
    ),
    "a function in line": ("", "size / 2", "size / 3", ""),
    "a function that another one calls": (
        (
            "static inline int third(int size) { return size / 3; }\n"
            "static inline int sixth(int size) { return third(size) / 2; }"
        ),
        "size / 3",
        "size / 4",
        "int two(int size) { return sixth(size); }",
    ),
    "an attribute": (
        "int ending(void);",
        "int ending(void);",
        "int ending(void) __attribute__((noreturn));",
        "int two(void) { ending(); return 3; }",
    ),
    "a table": (
        "static const int table[2] = {1, 2};",
        "{1, 2}",
        "{1, 3}",
        "int two(int at) { return table[at]; }",
    ),
    "the second of two variables": (
        "static const int first = 1, second = 2;",
        "second = 2",
        "second = 3",
        "int two(void) { return second; }",
    ),
    "the second name of a type": (
        "typedef int first, second;",
        "typedef int",
        "typedef short",
        "second two(second at) { return at / 2; }",
    ),
    "a type within a type": (
        "struct outer { struct inner { int a; } held; };",
        "int a;",
        "int a; int b;",
        (
            "#ifdef __cplusplus\nusing inner = outer::inner;\n#else\ntypedef struct inner inner;\n#endif\n"
            "int two(inner * at) { return at[1].a; }"
        ),
    ),
    "what runs before main": (
        (
            "static void before(void) __attribute__((constructor));\n"
            "int count;\nstatic void before(void) { count = 1; }"
        ),
        "count = 1",
        "count = 2",
        "",
    ),
    "what has to stay": (
        "__attribute__((used)) static int stays(void) { return 1; }",
        "return 1",
        "return 2",
        "",
    ),
    "what is not static": ("int all(void) { return 1; }", "return 1", "return 2", ""),
    "a name for the linker": (
        'int far(void) __asm__("near");',
        '"near"',
        '"nearer"',
        "int two(void) { return far(); }",
    ),
    "how closely members lie": ("", "struct thing {", "#pragma pack(1)\nstruct thing { char first;", ""),
    "a text with lines": (
        '#define TEXT "a;{" "\\n"',
        '"\\n"',
        '"\\n\\n"',
        "const char * two(void) { return TEXT; }",
    ),
    "a table of a type of its own": (
        "struct entry { int a; } entries[] = {{1}, {2}};",
        "{2}",
        "{3}",
        "int two(int at) { return entries[at].a; }",
    ),
    "a variable beside a function": (
        "int count, helper(int);",
        "int count, helper",
        "short count, helper",
        "int two(void) { return sizeof count; }",
    ),
    "how an enumeration is stored": (
        "enum small { SMALL_A, SMALL_B } __attribute__((packed));",
        " __attribute__((packed))",
        "",
        "int two(void) { return sizeof(enum small); }",
    ),
    "a value without a sign": (
        "enum { FROM = -1 };",
        "-1",
        "-1u",
        "int two(void) { return FROM / 2 > 1; }",
    ),
    "an inline function that is declared otherwise too": (
        "inline int shown(int a) { return a + 1; }\nint shown(int);",
        "a + 1",
        "a + 2",
        "int two(void) { return shown(1); }",
    ),
    "what lies in a block that nothing names": (
        "struct dead {\n#pragma pack(push, 1)\nint a;\n};\nstruct packed { char a; int b; };",
        "push, 1",
        "push, 2",
        "int two(void) { return sizeof(struct packed); }",
    ),
}
CHANGES_CPP = {
    **{
        f"a type that is told of where nothing is named, {how}": (
            (
                f"{first}\nnamespace in {{ inline int is(struct later *) {{ return 1; }}\n"
                "inline int is(const void *) { return 2; } }\nstruct later { int a; };"
            ),
            first,
            "",
            "int two(later * at) { return in::is(at); }",
        )
        for how, first in TOLD_FIRST.items()
    },
    "a type that nothing named tells of in a namespace": (
        (
            "struct __attribute__((aligned(8))) later { int a; };\n"
            "namespace in { int dead(struct later * at); inline int is(later *) { return 1; }\n"
            "inline int is(const void *) { return 2; } }"
        ),
        "return 1",
        "return 3",
        "int two(later * at) { return in::is(at); }",
    ),
    "a static member in line between brackets": (
        (
            "int next();\nstruct counted {\nenum { BIT = 1 << 2 };\n"
            "static inline int first = next() + 1;\nint of(counted * at) { return at->a; }\nint a;\n};"
        ),
        "+ 1",
        "+ 2",
        "",
    ),
    "a static member in line whose name is in parentheses": (
        "int next();\nstruct counted { static inline int (first) = next() + 1; };",
        "+ 1",
        "+ 2",
        "",
    ),
    "a static member that is in line at last": (
        (
            "int next();\nstruct held { using type = int; };\n"
            "struct counted { static held::type inline first = next() + 1; };"
        ),
        "+ 1",
        "+ 2",
        "",
    ),
    "an object that is made of a new one": (
        "struct maker { maker(void *, int = 2); };\nmaker made(new int *);",
        "= 2",
        "= 3",
        "",
    ),
    "an object that is made of words with a comma": (
        'struct maker { maker(const char *); };\nmaker made("one, const two");',
        "const two",
        "const three",
        "",
    ),
    "an object that is made of a template's value": (
        (
            "struct maker { maker(int); };\ntemplate <class A, class B> int of() { return 1; }\n"
            "maker made(of<int, const char *>());"
        ),
        "return 1",
        "return 2",
        "",
    ),
    "a static member in line of a type with parentheses": (
        (
            "template <typename T> struct hook { hook(int); };\nint next();\n"
            "struct counted { static inline hook<int(int)> first = next() + 1; };"
        ),
        "+ 1",
        "+ 2",
        "",
    ),
    "a pointer to a function that is a static member": (
        "int next(int);\nint (*pick(int))(int);\nstruct held { static inline int (*first)(int) = pick(1); };",
        "pick(1)",
        "pick(2)",
        "",
    ),
    "what a template's static member in parentheses does": (
        (
            "int add(int);\ntemplate <int N> struct entry { static int made; };\n"
            "template <int N> int entry<N>::made(add(N) + 1);\n"
            "inline int unnamed() { return entry<3>::made; }"
        ),
        "+ 1",
        "+ 2",
        "",
    ),
    "a namespace with nothing that is named": (
        (
            "namespace detail { inline int of(int) { return 2; } }\ninline int of(long) { return 1; }\n"
            "namespace used { namespace detail { int dead(); } using namespace detail; }"
        ),
        "{ int dead(); }",
        "{ inline int of(int) { return 3; } }",
        "namespace used { int two() { return of(1); } }",
    ),
    "another overload": (
        "long wide(double);",
        "long wide(double);",
        "long wide(double);\nint wide(int);",
        "long two(int a) { return wide(a); }",
    ),
    "an operator": (
        "inline bool operator<(const thing & a, int b) { return a.size < b; }",
        "a.size < b",
        "a.size <= b",
        "bool two(const thing & a) { return a < 3; }",
    ),
    "an object that is made": (
        "struct maker { maker(int); };\nstatic maker made(7);",
        "made(7)",
        "made(8)",
        "",
    ),
    "an object that is made of a product": (
        "struct maker { maker(int); };\nextern int a;\nstatic int b = 2;\nstatic maker made(a * b);",
        "b = 2",
        "b = 3",
        "",
    ),
    "an instance of a template": (
        "template <typename T> T twice(T a) { return a + a; }\ntemplate int twice(int);",
        "template int twice(int);",
        "template long twice(long);",
        "",
    ),
    "a specialisation": (
        (
            "template <typename T> struct size { static int of() { return 1; } };\n"
            "template <> struct size<int> { static int of() { return 2; } };"
        ),
        "return 2",
        "return 3",
        "int two() { return size<int>::of(); }",
    ),
    "a template's default": (
        "template <typename T = int> struct box { T held; };\nusing one_box = box<>;",
        "T = int",
        "T = char",
        "int two(one_box * at) { return at[1].held; }",
    ),
    "what follows a template with a default": (
        (
            "template <typename T = int> T none(T a) { return a; }\n"
            "static inline int after(int a) { return a + 1; }"
        ),
        "a + 1",
        "a + 2",
        "int two(int a) { return after(a); }",
    ),
    "where a loop begins": (
        (
            "struct list { int held[4]; };\ninline int * begin(list & all) { return all.held; }\n"
            "inline int * end(list & all) { return all.held + 4; }"
        ),
        "return all.held;",
        "return all.held + 1;",
        "int two(list & all) { int sum = 0; for (int one : all) sum += one; return sum; }",
    ),
    "a namespace that is used": (
        "namespace a { int of(int); }\nnamespace b { int of(int); }\nusing namespace a;",
        "using namespace a",
        "using namespace b",
        "int two() { return of(1); }",
    ),
    "a static member in line": (
        "int next();\nstruct counted { static inline int first = next() + 1; };",
        "+ 1",
        "+ 2",
        "",
    ),
    "what a system's template asks for by name": (
        (
            "#include <utility>\nstruct held { int a; };\n"
            "inline void swap(held & a, held & b) { a.a = 1; b.a = 2; }"
        ),
        "a.a = 1",
        "a.a = 3",
        "void two(std::pair<held, int> & a, std::pair<held, int> & b) { a.swap(b); }",
    ),
    "the type that auto is": (
        "struct first { int size() { return 1; } };\nfirst make();",
        "return 1",
        "return 2",
        "int two() { auto made = make(); return made.size(); }",
    ),
    "what a variable is made of": (
        '#include <string>\nextern std::string word;\nstd::string word("hello world");',
        "world",
        "there",
        "",
    ),
    "what registers itself": (
        'struct entry { entry(const char *); };\nnamespace { entry made("add one"); }',
        "add one",
        "add two",
        "",
    ),
    "a friend of a class that nothing names": (
        "struct at { int a; };\nstruct holder { friend int of(at one) { return one.a + 1; } };\nint of(at);",
        "+ 1",
        "+ 2",
        "struct taken : holder {};\nint two(at one) { return of(one); }",
    ),
    "a number that counts as it is made": (
        "extern int next;\nint next = 3;\nstatic int mine = next++;",
        "next++",
        "next--",
        "",
    ),
    "a constant that is declared for others": (
        "extern const int limit;\nconstexpr int limit = 3;",
        "limit = 3",
        "limit = 4",
        "",
    ),
    "what a template's static member does": (
        (
            "int add(int);\ntemplate <int N> struct entry { static int made; };\n"
            "template <int N> int entry<N>::made = add(N);\ninline int unnamed() { return entry<3>::made; }"
        ),
        "entry<3>::made; }",
        "entry<4>::made; }",
        "",
    ),
    "the second of two after a bracket": (
        "template <bool B = (1 < 2)> int no(int a) { return a; }\nauto after(int a) -> int { return a + 1; }",
        "a + 1",
        "a + 2",
        "int two(int a) { return after(a); }",
    ),
}
