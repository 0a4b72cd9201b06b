/* HTML text that grows in an arena. What comes from outside goes through page_text, which escapes
 * it, and writes out what a page should not obey either (core/print.h); page_put and page_format
 * take our own words only. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_PAGE_H
#define NIBBLE_EXPERIMENTS_REPORT_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"

typedef struct Page {
    Arena *arena;
    char *text; /* zero-terminated once something was put */
    size_t used, capacity;
} Page;

/* The head of a page with its style sheet, up to the body; and its end. */
void page_begin(Page *page, const char *title);
void page_end(Page *page);

void page_put(Page *page, const char *html);
void page_format(Page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Escaped for content and for attributes in double quotes. What is not UTF-8, and control
 * characters other than tab and line break, become U+FFFD. NULL is nothing. */
void page_text(Page *page, const char *text);
void page_name(Page *page, const char *name); /* the same; its line may end after '.' and '_' */

void page_note(Page *page, const char *text);   /* a paragraph in small print, escaped */
void page_count(Page *page, int64_t count);     /* "60,000" */
void page_bytes(Page *page, double bytes);      /* "58.3 kB" */
void page_duration(Page *page, double seconds); /* "4.3 min" */

#endif
