"""How the page looks: system fonts, quiet neutrals and one accent, in light and dark."""

import gradio as gr
from gradio.themes.utils import colors, sizes

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Return the theme.

    Returns
    -------
    gr.themes.Base
        For `gr.Blocks.launch`.
    """
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.zinc,
        text_size=sizes.text_md,
        radius_size=sizes.radius_lg,
        font=_FONT,
        font_mono=_MONO,
    ).set(
        body_background_fill="#fafafa",
        body_background_fill_dark="#101012",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#18181b",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="#ffffff",
        block_background_fill_dark="#18181b",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_400",
        block_label_text_weight="500",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="#ffffff",
        input_background_fill_dark="#111113",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_primary_border_color_hover="transparent",
        button_primary_border_color_hover_dark="transparent",
        button_large_text_size="*text_md",
        button_large_text_weight="600",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_200",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        color_accent="*primary_600",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="#12312e",
    )


# Only what the theme has no variable for. Elements are found by the ids and classes that the tabs
# give them; names from inside Gradio's components are kept few.
CSS = """
.gradio-container {
  width: 100% !important; max-width: 1240px !important; margin: 0 auto !important;
}
.gradio-container > .main { padding: 16px clamp(14px, 3vw, 32px); }
.gradio-container .prose p { margin: 0; }
.gradio-container .html-container { padding: 0; }

#masthead .prose { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem; }
#masthead h1 { margin: 0; font-size: 1.5rem; font-weight: 700; letter-spacing: -0.025em; }
#masthead p { color: var(--body-text-color-subdued); }
#masthead .running { margin-left: auto; font-size: var(--text-sm); }
button[role="tab"][aria-selected="true"] { color: var(--primary-700); }
.dark button[role="tab"][aria-selected="true"] { color: var(--primary-400); }

/* The photo beside the tabs; on a narrow page above them, and below the search. */
#desk { gap: clamp(16px, 3vw, 32px); }
#photo-panel { gap: 12px; }
.photo-box .image-container { background: var(--stage); }
.photo-box .source-selection { background: var(--block-background-fill); }
:root { --stage: #f4f4f5; }
:root.dark, .dark { --stage: #111113; }
.pair { gap: 8px; }
.pair button { flex: 1 1 180px; font-weight: 500; }
.deeds { gap: 8px; flex-wrap: nowrap; }
.deeds button { padding: 8px 6px; font-weight: 500; }

/* Samples: one even row of squares. */
#photo-samples .gallery {
  display: grid; grid-template-columns: repeat(9, minmax(0, 1fr)); gap: 6px;
}
#photo-samples .gallery-item { width: 100%; min-width: 0; aspect-ratio: 1; padding: 0; }
#photo-samples .gallery-item :is(span, .container) { display: block; width: 100%; height: 100%; }
#photo-samples .gallery-item .container { max-width: none; max-height: none; }
#photo-samples .gallery-item img { width: 100%; height: 100%; object-fit: cover; }
#photo-samples .label svg { display: none; }

/* Short texts to click. */
.chips { flex-wrap: wrap; gap: 8px; }
.chips button {
  flex: 0 0 auto; width: auto; padding: 5px 12px; border-radius: 999px; font-weight: 400;
}

/* A box to write in with its button beside it, also on a telephone. */
.ask-row { flex-wrap: nowrap; align-items: stretch; gap: 8px; }
.ask-row > .block { min-width: 0 !important; }
.ask-row > button { flex: 0 0 auto; }

.quiet-row { justify-content: flex-end; gap: 8px; flex-wrap: wrap; }
.quiet-row button { flex: 0 0 auto; width: auto; }
.chosen { align-items: center; gap: 8px; flex-wrap: wrap; }
.chosen > .block { flex: 1 1 140px; min-width: 0 !important; width: auto; }
.chosen button { flex: 0 0 auto; width: auto; }
.options > .form {
  display: grid; gap: 18px 32px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr));
}
.filters > .form { grid-template-columns: repeat(auto-fill, minmax(min(100%, 130px), 1fr)); }
.options .block:has(input:disabled) { opacity: 0.5; }
.options .block:has(input:disabled) :is(.min_value, .max_value) { visibility: hidden; }

/* Texts with a score and a bar. */
.candidates ol { margin: 0; padding: 0; list-style: none; display: grid; gap: 8px; }
.candidates li {
  position: relative; display: flex; gap: 12px; justify-content: space-between;
  padding: 8px 0 10px; border-bottom: 1px solid var(--border-color-primary);
}
.candidates .text { overflow-wrap: anywhere; }
.candidates .score { font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); }
.candidates .bar {
  position: absolute; left: 0; bottom: -1px; height: 3px; border-radius: 2px;
  background: var(--slider-color);
}
.candidates p {
  margin-top: 8px !important; font-size: var(--text-sm); color: var(--body-text-color-subdued);
}
button:disabled { cursor: not-allowed; opacity: 0.45; }
.candidates:not(:has(ol)):not(:has(p)), #chat-status:not(:has(p)), .photos:not(:has(img)) {
  display: none;
}

.answer textarea { font-size: 1.0625rem; line-height: 1.55; }
.meta p {
  color: var(--body-text-color-subdued); font-size: var(--text-sm); overflow-wrap: anywhere;
}
.meta { min-height: 1.4em; margin: -4px 0; }
#chat-history [aria-label="Clear"] { display: none; }  /* "Start over" does it in words */
.dark input[type="range"] { --neutral-200: var(--neutral-700); }
#search-rerank { min-width: min(240px, 100%) !important; }
.gr-accordion .form { border: 0; box-shadow: none; background: none; }
.gr-accordion .form > .block { padding-left: 0; padding-right: 0; }

/* Sentences that say why something was refused. */
.notice p, .meta [role="alert"], .candidates [role="alert"] {
  padding: 8px 12px; border-left: 3px solid var(--error-icon-color);
  border-radius: var(--radius-sm); background: var(--error-background-fill);
  color: var(--body-text-color);
}
.meta .doubt, .candidates .doubt {
  margin-top: 8px !important; padding: 8px 12px; border-left: 3px solid var(--slider-color);
  border-radius: var(--radius-sm); background: var(--background-fill-secondary);
  color: var(--body-text-color);
}
.meta [role="alert"] { margin-top: 8px; color: var(--body-text-color); }
/* The sentence is in the message at the corner; a badge that says "Error" adds nothing. */
[data-testid="status-tracker"]:has(> .error) { display: none; }
.report:has([data-testid="status-tracker"]:not(.hide)) { min-height: 120px; }
.report:has([data-testid="status-tracker"]:not(.hide)) .html-container { visibility: hidden; }
.report ul { margin: 6px 0 0; padding-left: 1.2em; list-style: disc; }
.report li { margin: 2px 0; overflow-wrap: anywhere; }

/* A gallery is as high as its photos; captions span them. */
.photos .grid-wrap {
  min-height: 0; max-height: none; height: auto; overflow: visible; padding: 8px;
}
.photos:has(.preview) .grid-wrap { height: min(70vh, 560px); overflow: hidden; }
.photos .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(min(46%, 170px), 1fr)); gap: 8px;
}
.photos .thumbnail-item .caption-label {
  inset: auto 0 0 0; max-width: none; padding: 4px 8px; border: 0; border-radius: 0;
  text-align: left; background: rgb(255 255 255 / 92%); color: #27272a;
}
.dark .photos .thumbnail-item .caption-label {
  background: rgb(24 24 27 / 90%); color: #e4e4e7;
}

/* Gradio makes these rules hold within the page's content alone, so not for the footer. */
@media (max-width: 640px) {
  #masthead .running { margin-left: 0; }
  #desk { flex-direction: column; }
  #photo { height: 240px !important; }
  .chosen > .block { flex-basis: 100%; }
  .chosen button { flex: 1 1 auto; }
  #desk:has(#tab-search-button[aria-selected="true"]) #photo-panel { order: 2; }
}
footer { gap: 16px; font-size: var(--text-sm); }
footer .divider { display: none !important; }
"""
