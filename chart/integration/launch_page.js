// binder-egress: hands the page's build requests to the verifier's launch.js. ES5 syntax and interfaces of 2015 only,
// so that no browser fails on it.
(function (page) {
  try {
    var original = page.fetch;
    var here = new URL(page.pageConfig.baseUrl, document.baseURI).href;
    var meta = document.querySelector("meta[name=binder-egress]");
    var base = new URL(meta ? meta.content : "egress/", here).href.replace(/\/?$/, "/");
    var ours = { base: base, early: [] };
    var ignore = function () {};
    // Without launch.js nothing reads the copies of answers, and they must not fill memory.
    var drop = function () {
      (ours.early || []).forEach(function (seen) {
        seen[1].then(function (copy) { return copy.body.cancel(); }).then(null, ignore);
      });
      ours.early = null;
    };
    page.fetch = function fetch(input) {
      var answer, address;
      try {
        address = new URL(input.url || input, document.baseURI).href;
        if (address.indexOf(here + "build/") === 0) {
          if (ours.send) {
            answer = ours.send(original, this, arguments, address);
          } else if (ours.early) {
            // The request goes out before launch.js has loaded. launch.js reads a copy of the answer later.
            answer = original.apply(this, arguments);
            var copy = answer.then(function (response) { return response.clone(); });
            copy.then(null, ignore);
            ours.early.push([address, copy]);
          }
        }
      } catch (error) {}
      return answer || original.apply(this, arguments);
    };
    page.binderEgress = ours;
    // This page launches immediately, so the challenge is requested immediately.
    if (page.location.href.indexOf(here + "v2/") === 0) {
      ours.challenge = original.call(page, base + "challenge?purpose=launch");
      ours.challenge.then(null, ignore);
    }
    var script = document.createElement("script");
    script.async = true;
    // BinderHub answers an unknown address with its page. Browsers run a module only if its content type is JavaScript.
    script.type = "module";
    // By default, browsers load async scripts after others.
    script.fetchPriority = "high";
    script.src = base + "launch.js";
    script.onerror = drop;
    setTimeout(drop, 30000);
    document.head.appendChild(script);
  } catch (error) {}
})(window);
