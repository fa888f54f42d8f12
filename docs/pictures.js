// A click on a picture opens it in its own size.
for (const picture of document.querySelectorAll(".md-content p > img")) {
  const link = document.createElement("a");
  link.href = picture.src;
  picture.replaceWith(link);
  link.append(picture);
}
