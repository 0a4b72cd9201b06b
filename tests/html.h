/* What tests ask of a page. */
#ifndef NIBBLE_TESTS_HTML_H
#define NIBBLE_TESTS_HTML_H

#include <stdio.h>
#include <string.h>

/* The page is written as XML, too: every element that is opened is closed, in order. */
static inline void assert_html(const char *html) {
    enum { DEPTH_MAX = 32 };
    char open[DEPTH_MAX][16];
    int depth = 0;
    for (const char *at = strchr(html, '<'); at; at = strchr(at + 1, '<')) {
        size_t length = strcspn(at, ">"), name = strcspn(at + 1, " />\n");
        assert_true(at[length] == '>');
        if (at[1] == '!' || at[length - 1] == '/') continue;
        if (at[1] == '/') {
            assert_true(depth-- > 0);
            assert_int_equal(strlen(open[depth]), length - 2);
            assert_memory_equal(open[depth], at + 2, length - 2);
        } else {
            assert_true(name > 0 && name < 16 && depth < DEPTH_MAX);
            snprintf(open[depth++], 16, "%.*s", (int)name, at + 1);
        }
    }
    assert_int_equal(depth, 0);
}

static inline int html_count(const char *text, const char *part) {
    int count = 0;
    while ((text = strstr(text, part))) {
        count++;
        text += strlen(part);
    }
    return count;
}

#endif
