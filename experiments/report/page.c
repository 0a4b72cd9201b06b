#include "experiments/report/page.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/print.h"
#include "experiments/report/page_style.h"

static char *page_room(Page *page, size_t count) {
    if (page->capacity - page->used <= count) {
        page->capacity = 2 * checked_add(page->capacity, count) + 4096;
        char *larger = arena_alloc(page->arena, page->capacity);
        if (page->used) memcpy(larger, page->text, page->used);
        page->text = larger;
    }
    return page->text + page->used;
}

static void page_add(Page *page, const char *bytes, size_t count) {
    char *room = page_room(page, count);
    memcpy(room, bytes, count);
    room[count] = '\0';
    page->used += count;
}

void page_put(Page *page, const char *html) {
    page_add(page, html, strlen(html));
}

void page_format(Page *page, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int count = vsnprintf(NULL, 0, format, args);
    if (count > 0) {
        vsnprintf(page_room(page, (size_t)count), (size_t)count + 1, format, again);
        page->used += (size_t)count;
    }
    va_end(again);
    va_end(args);
}

static const char *entity(char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void page_text(Page *page, const char *text) {
    if (!text) return;
    for (const char *at = print_lines(text, strlen(text), page->arena); *at; at++) {
        const char *instead = entity(*at);
        page_add(page, instead ? instead : at, instead ? strlen(instead) : 1);
    }
}

void page_name(Page *page, const char *name) {
    while (*name) {
        size_t length = strcspn(name, "._");
        if (name[length]) length++;
        page_text(page, arena_format(page->arena, "%.*s", (int)length, name));
        name += length;
        if (*name) page_put(page, "<wbr/>");
    }
}

void page_count(Page *page, int64_t count) {
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)count);
    for (int i = 0; i < length; i++) {
        bool is_group = i > (count < 0) && (length - i) % 3 == 0;
        page_format(page, is_group ? ",%c" : "%c", digits[i]);
    }
}

void page_note(Page *page, const char *text) {
    page_put(page, "<p class=\"note\">");
    page_text(page, text);
    page_put(page, "</p>\n");
}

void page_bytes(Page *page, double bytes) {
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    page_format(page, unit ? "%.3g %s" : "%.0f %s", bytes, units[unit]);
}

void page_duration(Page *page, double seconds) {
    if (seconds < 60) {
        page_format(page, "%.1f s", seconds);
    } else if (seconds < 7200) {
        page_format(page, "%.1f min", seconds / 60);
    } else {
        page_format(page, seconds < 1e9 ? "%.1f h" : "%.3g h", seconds / 3600);
    }
}

void page_begin(Page *page, const char *title) {
    page_put(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                   "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
                   "<title>");
    page_text(page, title);
    page_put(page, " \xe2\x80\x93 nibble</title>\n<style>\n");
    page_put(page, page_style);
    page_put(page, "</style>\n</head>\n<body>\n");
    page_put(page, page_marks);
}

void page_end(Page *page) {
    page_put(page, "</body>\n</html>\n");
}
