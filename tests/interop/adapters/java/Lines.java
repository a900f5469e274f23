import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.function.Consumer;

/** Words between the test and an adapter; lines.py tells them. */
final class Lines {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    static synchronized void say(String word, Object... rest) {
        StringBuilder line = new StringBuilder(word);
        for (Object part : rest) {
            line.append(' ').append(part);
        }
        OUT.print(line.append('\n'));
        OUT.flush();
    }

    /** Does what comes on standard input, until that ends. */
    static void obey(Consumer<String> text, Runnable close) throws Exception {
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = orders.readLine()) != null; ) {
            try {
                if (line.startsWith("text ")) {
                    text.accept(line.substring(5));
                } else {
                    close.run();
                }
            } catch (RuntimeException error) {
                say("error", error);
            }
        }
        System.exit(0);
    }
}
